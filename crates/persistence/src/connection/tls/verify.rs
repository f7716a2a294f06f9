use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{
        WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
        verify_tls13_signature_with_raw_key,
    },
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::ParsedCertificate,
};
use x509_cert::{
    certificate::{CertificateInner, Raw, Version},
    der::{Decode as _, Encode},
    ext::pkix::{BasicConstraints, KeyUsage},
};

use super::{certificates, name, refusal};
use crate::conninfo::{Tls, TlsMode};

type Certificate = CertificateInner<Raw>;

/// Decides whether a server is whom `sslmode` and `sslrootcert` want.
#[derive(Debug)]
pub(super) struct Verifier {
    /// `None` where anybody is: then nothing of a certificate is looked at.
    trusted: Option<Trusted>,
    /// Whose the certificate must be.
    host: Option<String>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The certificates that are trusted for themselves.
#[derive(Debug)]
struct Trusted {
    roots: Vec<(CertificateDer<'static>, Certificate)>,
    /// Those of them that may sign others.
    authorities: RootCertStore,
    /// What was given beside them, to be signed by one of them.
    others: Vec<CertificateDer<'static>>,
}

impl Verifier {
    pub(super) fn new(
        name: &str,
        tls: &Tls,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, sqlx::Error> {
        let of_system = tls.roots.is_none() && tls.mode == TlsMode::VerifyFull;
        let given = match &tls.roots {
            Some(file) => Some(certificates(file)?),
            None if of_system => Some(rustls_native_certs::load_native_certs().certs),
            None => None,
        };
        let trusted = given.map(|given| Trusted::new(given, UnixTime::now()));
        if trusted
            .as_ref()
            .is_some_and(|trusted| trusted.roots.is_empty())
        {
            return Err(refusal(
                "sslrootcert holds no authority that is valid now: no certificate that has signed itself",
            ));
        }
        Ok(Self {
            trusted,
            host: (tls.mode == TlsMode::VerifyFull).then(|| name.to_owned()),
            algorithms,
        })
    }

    fn verify_chain(
        &self,
        trusted: &Trusted,
        end_entity: &CertificateDer<'_>,
        certificate: &Certificate,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        verify_dates(certificate, now)?;
        if trusted.roots.iter().any(|(root, _)| root == end_entity) {
            return Ok(());
        }
        if is_self_issued(certificate) {
            return Err(CertificateError::UnknownIssuer.into());
        }
        if certificate.tbs_certificate().version() == Version::V3 {
            let mut others = intermediates.to_vec();
            others.extend(trusted.others.iter().cloned());
            return verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                &trusted.authorities,
                &others,
                now,
                self.algorithms.all,
            );
        }
        // Before version 3 a certificate says nothing but whose it is, so that there is nothing else
        // to ask of it. Only those that a root itself has signed are followed.
        let mut roots = trusted.roots.iter();
        let is_signed = roots.any(|(_, root)| {
            may_sign(root)
                && root.tbs_certificate().subject() == certificate.tbs_certificate().issuer()
                && self.has_signed(root, certificate)
        });
        is_signed
            .then_some(())
            .ok_or_else(|| CertificateError::UnknownIssuer.into())
    }

    fn has_signed(&self, issuer: &Certificate, certificate: &Certificate) -> bool {
        let key = issuer.tbs_certificate().subject_public_key_info();
        let (Ok(key_algorithm), Ok(signature_algorithm), Ok(signed)) = (
            key.algorithm.to_der(),
            certificate.signature_algorithm().to_der(),
            certificate.tbs_certificate().to_der(),
        ) else {
            return false;
        };
        let (Some(key), Some(signature)) = (
            key.subject_public_key.as_bytes(),
            certificate.signature().as_bytes(),
        ) else {
            return false;
        };
        certificate.tbs_certificate().signature() == certificate.signature_algorithm()
            && self.algorithms.all.iter().any(|algorithm| {
                content(&key_algorithm) == Some(algorithm.public_key_alg_id().as_ref())
                    && content(&signature_algorithm) == Some(algorithm.signature_alg_id().as_ref())
                    && algorithm.verify_signature(key, &signed, signature).is_ok()
            })
    }
}

impl Trusted {
    fn new(given: Vec<CertificateDer<'static>>, now: UnixTime) -> Self {
        let mut trusted = Self {
            roots: Vec::new(),
            authorities: RootCertStore::empty(),
            others: Vec::new(),
        };
        for der in given {
            let Ok(certificate) = Certificate::from_der(&der) else {
                tracing::debug!("a certificate of the authorities can't be read");
                continue;
            };
            if !is_self_issued(&certificate) {
                trusted.others.push(der);
            } else if verify_dates(&certificate, now).is_ok() {
                if may_sign(&certificate) {
                    trusted.authorities.add_parsable_certificates([der.clone()]);
                }
                trusted.roots.push((der, certificate));
            }
        }
        trusted
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trusted) = &self.trusted else {
            return Ok(ServerCertVerified::assertion());
        };
        let certificate = read(end_entity)?;
        self.verify_chain(trusted, end_entity, &certificate, intermediates, now)?;
        match &self.host {
            Some(host) if !name::is_for(&certificate, host) => Err(Error::General(format!(
                "the certificate is not valid for name {host:?}"
            ))),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    /// Whose key it is says nothing where anybody's will do.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.trusted.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.trusted.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let read = read(certificate)?;
        if read.tbs_certificate().version() == Version::V3 {
            return verify_tls13_signature(message, certificate, signed, &self.algorithms);
        }
        let key = read.tbs_certificate().subject_public_key_info().to_der();
        let key = SubjectPublicKeyInfoDer::from(key.map_err(|_| CertificateError::BadEncoding)?);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn read(certificate: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

fn verify_dates(certificate: &Certificate, now: UnixTime) -> Result<(), Error> {
    let validity = certificate.tbs_certificate().validity();
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

fn is_self_issued(certificate: &Certificate) -> bool {
    certificate.tbs_certificate().subject() == certificate.tbs_certificate().issuer()
}

/// Whether a certificate that has signed itself may sign others. Before version 3 none says so.
fn may_sign(certificate: &Certificate) -> bool {
    let itself = certificate.tbs_certificate();
    if itself.version() != Version::V3 {
        return true;
    }
    let is_authority = itself.get_extension::<BasicConstraints>();
    let usage = itself.get_extension::<KeyUsage>();
    matches!(is_authority, Ok(Some((_, constraints))) if constraints.ca)
        && match usage {
            Ok(usage) => usage.is_none_or(|(_, usage)| usage.key_cert_sign()),
            Err(_) => false,
        }
}

/// What is in a DER sequence of less than 128 bytes.
fn content(sequence: &[u8]) -> Option<&[u8]> {
    let (header, content) = sequence.split_at_checked(2)?;
    (usize::from(header[1]) == content.len()).then_some(content)
}
