//! Tokens of an identity provider, with one that serves its keys.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    crash::wait_for,
    http::request_with,
    process::{PATIENCE, Server, agentkit, run, text},
};

const ISSUER: &str = "https://login.example.com/";
const AUDIENCE: &str = "agentkit";

/// As URLs have it.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut bits = 0_usize;
        for place in 0..3 {
            bits = (bits << 8) | usize::from(chunk.get(place).copied().unwrap_or(0));
        }
        for place in 0..=chunk.len() {
            text.push(DIGITS[(bits >> (18 - 6 * place)) & 63].into());
        }
    }
    text
}

/// A key of the issuer.
struct Key {
    id: &'static str,
    private: Vec<u8>,
    /// The point.
    public: Vec<u8>,
}

impl Key {
    fn new(id: &'static str) -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let private = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, private.as_ref(), &random).unwrap();
        Self {
            id,
            private: private.as_ref().to_vec(),
            public: pair.public_key().as_ref().to_vec(),
        }
    }

    fn jwk(&self) -> Value {
        let (x, y) = (base64(&self.public[1..33]), base64(&self.public[33..]));
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id, "x": x, "y": y})
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header {
            kid: Some(self.id.to_owned()),
            ..Header::new(Algorithm::ES256)
        };
        encode(&header, claims, &EncodingKey::from_ec_der(&self.private)).unwrap()
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn claims(owner: &str, scope: &str) -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "exp": now() + 600, "sub": owner, "scope": scope})
}

fn with(mut claims: Value, claim: &str, value: Value) -> Value {
    claims[claim] = value;
    claims
}

/// Who serves the keys.
struct Issuer {
    url: String,
    keys: Arc<Mutex<Value>>,
    asked: Arc<AtomicUsize>,
    is_down: Arc<AtomicBool>,
    /// Whether it lets those wait who ask.
    is_held: Arc<AtomicBool>,
    /// What it says of itself.
    document: Arc<Mutex<Value>>,
}

impl Issuer {
    fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let issuer = Self {
            url: format!("http://{}/keys", listener.local_addr().unwrap()),
            keys: Arc::default(),
            asked: Arc::default(),
            is_down: Arc::default(),
            is_held: Arc::default(),
            document: Arc::default(),
        };
        issuer.serve(keys);
        let (keys, asked) = (Arc::clone(&issuer.keys), Arc::clone(&issuer.asked));
        let document = Arc::clone(&issuer.document);
        let [is_down, is_held] = [&issuer.is_down, &issuer.is_held].map(Arc::clone);
        thread::spawn(move || {
            for stream in listener.incoming() {
                asked.fetch_add(1, Ordering::SeqCst);
                while is_held.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(10));
                }
                let said = |said: &Mutex<Value>| match is_down.load(Ordering::SeqCst) {
                    true => "down".to_owned(),
                    false => said.lock().unwrap().to_string(),
                };
                answer(stream.unwrap(), [said(&document), said(&keys)]);
            }
        });
        issuer
    }

    fn serve(&self, keys: &[&Key]) {
        let mut keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
        keys.push(json!({"kty": "new", "kid": "strange"}));
        *self.keys.lock().unwrap() = json!({"keys": keys});
    }

    fn server(&self, directory: &TempDir) -> Server {
        let mut command = agentkit(directory.path());
        command.args(["--bind", "0.0.0.0:0"]).args(self.arguments());
        Server::spawn(&mut command)
    }

    fn arguments(&self) -> [&str; 6] {
        let issuer = ["--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE];
        let [a, b, c, d] = issuer;
        [a, b, c, d, "--jwt-jwks-url", &self.url]
    }
}

fn answer(mut stream: TcpStream, [document, keys]: [String; 2]) {
    let mut request = [0; 4096];
    let read = stream.read(&mut request).unwrap_or_default();
    let body = match request[..read].starts_with(b"GET /.well-known/openid-configuration ") {
        true => document,
        false => keys,
    };
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length:";
    let _ = write!(stream, "{head} {}\r\n\r\n{body}", body.len());
}

fn send(server: &Server, head: &str, token: &str, body: &str) -> (u16, Value) {
    let header = format!("authorization: Bearer {token}\r\n");
    let port = server.address.rsplit(':').next().unwrap();
    let address = format!("127.0.0.1:{port}");
    request_with(&address, PATIENCE, head, &header, body).unwrap()
}

fn list(server: &Server, token: &str) -> u16 {
    send(server, "GET /conversations", token, "").0
}

#[test]
fn a_token_has_the_conversations_of_its_owner_and_the_scope_that_it_names() {
    let (directory, key) = (TempDir::new().unwrap(), Key::new("1"));
    let issuer = Issuer::start(&[&key]);
    // Without a key of its own, on an address that others reach.
    let server = issuer.server(&directory);
    let [ada, bob, reads] = [
        ("ada", "openid write"),
        ("bob", "write"),
        ("ada", "profile"),
    ]
    .map(|(owner, scope)| key.sign(&claims(owner, scope)));
    let (status, chat) = send(&server, "POST /conversations", &ada, "{}");
    assert_eq!((status, &chat["owner"]), (200, &json!("ada")));
    let path = format!("GET /conversations/{}", chat["id"].as_str().unwrap());
    let looks = [&ada, &bob, &reads].map(|token| send(&server, &path, token, "").0);
    assert_eq!(looks, [200, 404, 200]);
    assert_eq!(send(&server, "POST /conversations", &reads, "{}").0, 403);
    assert_eq!(send(&server, "DELETE /owners/ada", &ada, "").0, 403);
    let list_of_scopes = with(claims("ada", ""), "scope", json!(["x", "agentkit:admin"]));
    let admin = key.sign(&list_of_scopes);
    assert_eq!(send(&server, "DELETE /owners/bob", &admin, "").0, 404);
    assert_eq!(send(&server, "DELETE /owners/ada", &admin, "").0, 200);
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 1);
    assert_eq!(list(&server, ""), 401);
    // Keys of the server go on beside tokens.
    let created = run(directory.path(), &["keys", "create", "CI"]);
    assert_eq!(list(&server, text(&created.stdout).trim()), 200);
}

#[test]
fn where_the_keys_are_the_issuer_says_itself() {
    let (directory, key) = (TempDir::new().unwrap(), Key::new("1"));
    let issuer = Issuer::start(&[&key]);
    let name = issuer.url.strip_suffix("/keys").unwrap().to_owned();
    let token = key.sign(&with(claims("ada", "write"), "iss", json!(name)));
    // One that nobody has asked yet.
    let status = |document: Value| {
        *issuer.document.lock().unwrap() = document;
        let mut command = agentkit(directory.path());
        command.args(["--bind", "127.0.0.1:0", "--jwt-audience", AUDIENCE]);
        list(
            &Server::spawn(command.args(["--jwt-issuer", &name])),
            &token,
        )
    };
    assert_eq!(status(json!({"issuer": name, "jwks_uri": issuer.url})), 200);
    assert_eq!(
        status(json!({"issuer": ISSUER, "jwks_uri": issuer.url})),
        503
    );
    assert_eq!(
        status(json!({"issuer": name, "jwks_uri": "file:///etc/passwd"})),
        503
    );
    assert_eq!(status(json!({"issuer": name})), 503);

    let mut command = agentkit(directory.path());
    let refused = command.args(["--jwt-issuer", "login", "--jwt-audience", AUDIENCE]);
    let refused = refused.output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("AGENTKIT_JWT_JWKS_URL"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_of_the_tenant_that_it_names_and_of_none_without() {
    let (installation, key) = (crate::tenants::direct().await, Key::new("1"));
    let issuer = Issuer::start(&[&key]);
    let server = |of: Option<&str>| {
        let mut command = installation.command("0", "1");
        command.args(issuer.arguments());
        Server::spawn(command.envs(of.map(|tenant| ("DB_TENANT", tenant))))
    };
    let all = server(None);
    let claims = claims("ada", "write");
    let of = |tenant: Value| key.sign(&with(claims.clone(), "tenant", tenant));
    let [acme, bob] = ["acme", "bob"].map(|tenant| of(json!(tenant)));
    let (status, chat) = send(&all, "POST /conversations", &acme, "{}");
    assert_eq!(status, 200, "{chat}");
    let path = format!("GET /conversations/{}", chat["id"].as_str().unwrap());
    // The owner has the same name.
    assert_eq!(
        [&acme, &bob].map(|token| send(&all, &path, token, "").0),
        [200, 404]
    );
    let nobody = key.sign(&claims);
    let wrong = [
        json!("*"),
        json!(""),
        json!(1),
        json!(["acme"]),
        json!("'; SELECT 1"),
    ]
    .map(of);
    for token in wrong.iter().chain([&nobody]) {
        assert_eq!(list(&all, token), 401);
    }
    drop(all);
    let of_acme = server(Some("acme"));
    let lists = [&acme, &bob, &nobody].map(|token| list(&of_acme, token));
    assert_eq!(lists, [200, 401, 200]);
}

#[test]
fn a_token_that_is_not_right_in_all_is_refused_and_is_in_no_log() {
    let (directory, key, other) = (TempDir::new().unwrap(), Key::new("1"), Key::new("1"));
    let issuer = Issuer::start(&[&key]);
    let mut command = agentkit(directory.path());
    command
        .args(["--bind", "127.0.0.1:0"])
        .args(issuer.arguments());
    command.env("RUST_LOG", "trace").stderr(Stdio::piped());
    let mut server = Server::spawn(&mut command);
    let mut stderr = server.process.stderr.take().unwrap();
    let log = thread::spawn(move || {
        let mut log = Vec::new();
        stderr.read_to_end(&mut log).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    });

    let good = claims("ada", "admin");
    let right = key.sign(&good);
    assert_eq!(list(&server, &right), 200);
    let [header, body, signature] = right.split('.').collect::<Vec<_>>()[..] else {
        panic!("{right}");
    };
    let confused = |secret: &[u8]| {
        let header = Header {
            kid: Some("1".to_owned()),
            ..Header::new(Algorithm::HS256)
        };
        encode(&header, &good, &EncodingKey::from_secret(secret)).unwrap()
    };
    let none = base64(br#"{"alg":"none","kid":"1"}"#);
    let other_claims = base64(
        with(good.clone(), "sub", json!("bob"))
            .to_string()
            .as_bytes(),
    );
    let no_key = Header::new(Algorithm::ES256);
    let no_key = encode(&no_key, &good, &EncodingKey::from_ec_der(&key.private)).unwrap();
    let mut no_end = good.clone();
    no_end.as_object_mut().unwrap().remove("exp");
    let past = |claim: &str, at| key.sign(&with(good.clone(), claim, at));
    let wrong = [
        format!("{none}.{body}."),
        format!("{none}.{body}.{signature}"),
        format!("{header}.{body}."),
        format!("{header}.{body}"),
        format!("{header}.{other_claims}.{signature}"),
        confused(&key.public),
        confused(key.jwk().to_string().as_bytes()),
        confused(b""),
        no_key,
        other.sign(&good),
        Key::new("2").sign(&good),
        Key::new("strange").sign(&good),
        past("exp", json!(now() - 60)),
        past("nbf", json!(now() + 60)),
        past("aud", json!("another")),
        past("aud", json!(["one", "another"])),
        past("iss", json!("https://evil.example.com/")),
        past("sub", json!("")),
        past("sub", json!(7)),
        key.sign(&no_end),
        "a.b.c".to_owned(),
    ];
    for token in &wrong {
        let (status, refused) = send(&server, "GET /conversations", token, "");
        assert_eq!(status, 401, "{token}: {refused}");
        assert_eq!(refused["type"], "urn:agentkit:problem:unauthorized");
    }
    // Whoever sends wrong ones does not make the server ask each time.
    assert!(issuer.asked.load(Ordering::SeqCst) <= 3);
    assert_eq!(list(&server, &right), 200);
    drop(server);
    let log = log.join().unwrap();
    for token in wrong.iter().chain([&right]) {
        assert!(!log.contains(token.as_str()), "{token}");
    }
    assert!(!log.contains(signature) && log.contains("a token is refused"));
    assert!(log.contains("caller=\"token "), "{log}");
}

#[test]
fn a_new_key_of_the_issuer_is_found_and_one_that_was_withdrawn_is_refused() {
    let (directory, old, new) = (TempDir::new().unwrap(), Key::new("1"), Key::new("2"));
    let issuer = Issuer::start(&[&old]);
    let server = issuer.server(&directory);
    let [before, after] = [&old, &new].map(|key| key.sign(&claims("ada", "read")));
    assert_eq!(list(&server, &before), 200);
    assert_eq!(list(&server, &after), 401);
    issuer.serve(&[&new]);
    wait_for(|| (list(&server, &after) == 200).then_some(()));
    assert_eq!(list(&server, &before), 401);
    // Where nobody answers, what is known goes on.
    issuer.is_down.store(true, Ordering::SeqCst);
    let asked = issuer.asked.load(Ordering::SeqCst);
    wait_for(|| {
        list(&server, &before);
        (issuer.asked.load(Ordering::SeqCst) > asked).then_some(())
    });
    assert_eq!(list(&server, &after), 200);
}

#[test]
fn who_has_a_known_key_does_not_wait_for_the_question_for_another() {
    let (directory, old, new) = (TempDir::new().unwrap(), Key::new("1"), Key::new("2"));
    let issuer = Issuer::start(&[&old]);
    let server = issuer.server(&directory);
    let [known, unknown] = [&old, &new].map(|key| key.sign(&claims("ada", "read")));
    assert_eq!(list(&server, &known), 200);
    issuer.is_held.store(true, Ordering::SeqCst);
    let (answers, asked) = (AtomicUsize::new(0), issuer.asked.load(Ordering::SeqCst));
    thread::scope(|scope| {
        scope.spawn(|| {
            // It is soon after the last question, at first.
            while issuer.is_held.load(Ordering::SeqCst) {
                assert_ne!(list(&server, &unknown), 200);
                answers.fetch_add(1, Ordering::SeqCst);
            }
        });
        wait_for(|| (issuer.asked.load(Ordering::SeqCst) > asked).then_some(()));
        let before = answers.load(Ordering::SeqCst);
        assert_eq!(list(&server, &known), 200);
        assert_eq!(answers.load(Ordering::SeqCst), before);
        issuer.is_held.store(false, Ordering::SeqCst);
    });
}

#[test]
fn an_issuer_that_never_answered_is_no_reason_to_refuse_a_token() {
    let (directory, key) = (TempDir::new().unwrap(), Key::new("1"));
    let issuer = Issuer::start(&[&key]);
    issuer.is_down.store(true, Ordering::SeqCst);
    let server = issuer.server(&directory);
    let token = key.sign(&claims("ada", "read"));
    // Asked for, and remembered.
    assert_eq!([list(&server, &token), list(&server, &token)], [503, 503]);
    issuer.is_down.store(false, Ordering::SeqCst);
    wait_for(|| (list(&server, &token) == 200).then_some(()));
}

#[test]
fn settings_of_tokens_go_together() {
    let directory = TempDir::new().unwrap();
    let output = run(directory.path(), &["--jwt-issuer", ISSUER]);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(error.contains("AGENTKIT_JWT_JWKS_URL"), "{error}");
}
