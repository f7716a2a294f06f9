use std::net::IpAddr;

use x509_cert::{
    certificate::{CertificateInner, Raw},
    der::{Tagged, asn1::ObjectIdentifier},
    ext::pkix::{SubjectAltName, name::GeneralName},
};

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Whether the certificate is one of `host`, as libpq has it: by an alternative name of its subject,
/// or by its common name where there is none of the kind.
pub(super) fn is_for(certificate: &CertificateInner<Raw>, host: &str) -> bool {
    let subject = certificate.tbs_certificate();
    let address: Option<IpAddr> = host.parse().ok();
    let Ok(names) = subject.get_extension::<SubjectAltName>() else {
        return false;
    };
    let names = names.map(|(_, names)| names.0).unwrap_or_default();
    let mut has_kind = false;
    for name in &names {
        let matches = match name {
            GeneralName::DnsName(name) => {
                has_kind |= address.is_none();
                matches_name(name.as_str().as_bytes(), host)
            }
            GeneralName::IpAddress(octets) => {
                has_kind |= address.is_some();
                address.is_some_and(|address| octets.as_bytes() == bytes(address))
            }
            _ => false,
        };
        if matches {
            return true;
        }
    }
    let mut attributes = subject.subject().iter();
    let common = attributes.find(|attribute| attribute.oid == COMMON_NAME);
    !has_kind
        && common.is_some_and(|common| {
            !common.value.tag().is_constructed() && matches_name(common.value.value(), host)
        })
}

/// A star stands for the whole of the first label.
fn matches_name(pattern: &[u8], host: &str) -> bool {
    let host = host.as_bytes();
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some(rest) = pattern
        .strip_prefix(b"*")
        .filter(|rest| rest.starts_with(b"."))
    else {
        return false;
    };
    let label = host.iter().position(|byte| *byte == b'.').unwrap_or(0);
    label > 0 && host[label..].eq_ignore_ascii_case(rest)
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::matches_name;

    #[test]
    fn a_star_stands_for_one_whole_label_and_nothing_else() {
        let matches = |pattern: &str, host| matches_name(pattern.as_bytes(), host);
        assert!(matches("DB.example", "db.Example"));
        assert!(matches("*.example", "db.example"));
        for (pattern, host) in [
            ("db.example", "db.example.org"),
            ("*.example", "example"),
            ("*.example", ".example"),
            ("*.example", "a.b.example"),
            ("d*.example", "db.example"),
            ("*", "db"),
            ("*example", "db.example"),
            ("db.example\0.org", "db.example"),
            ("", "db"),
        ] {
            assert!(!matches(pattern, host), "{pattern:?} {host}");
        }
    }
}
