use std::{collections::BTreeMap, path::Path, process::Command};

use super::{
    postgres::{Place, TlsMode},
    *,
};

fn resolve(text: &str, variables: &[(&str, &str)]) -> Result<Postgres, Fault> {
    let Written::Postgres(written) = read(text)? else {
        panic!("{text} is SQLite");
    };
    Postgres::resolve(&written, &|name| {
        let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
        Some((*value).to_owned())
    })
}

fn network(name: &str, port: u16) -> (Place, u16) {
    let name = name.to_owned();
    (
        Place::Network {
            name,
            address: None,
        },
        port,
    )
}

fn places(postgres: &Postgres) -> Vec<(Place, u16)> {
    let hosts = postgres.hosts.iter();
    hosts.map(|host| (host.place.clone(), host.port)).collect()
}

/// Of libpq's documentation, of its regression tests, and from people's configurations.
const STRINGS: &[&str] = &[
    "postgresql://",
    "postgresql://localhost",
    "postgresql://localhost:5433",
    "postgresql://localhost/mydb",
    "postgresql://user@localhost",
    "postgresql://user:secret@localhost",
    "postgresql://other@localhost/otherdb?connect_timeout=10&application_name=myapp",
    "postgresql://host1:123,host2:456/somedb?target_session_attrs=any&application_name=myapp",
    "postgresql:///mydb?host=localhost&port=5433",
    "postgresql://[2001:db8::1234]/database",
    "postgres://u@[::1]:5432/d",
    "postgresql://%2Fvar%2Flib%2Fpostgresql/dbname",
    "postgresql://user@/d?host=/tmp&port=1",
    "postgresql://user@localhost:5433/mydb?options=-c%20synchronous_commit%3Doff",
    "postgresql://u%40x:p%3Aw%2F@h/d%20b",
    "postgresql://u:p@w@h/d",
    "postgresql://u:p/w@h/d",
    "postgresql://uri-user:secret@host:12345/db?user=other",
    "postgresql://host/db?u%73er=someotheruser&port=12345",
    "postgresql://host/db?u%7aer=x",
    "postgresql://host:12345/?user=uri-user",
    "postgresql://host?zzz",
    "postgresql://host?a=b=c",
    "postgresql://host/db?sslmode=require&sslmode=disable",
    "postgresql://host/db?ssl=true",
    "postgresql://host/db?ssl=false",
    "postgresql://[::1",
    "postgresql://[]",
    "postgresql://[::1]x",
    "postgresql://[::1]:5,[::2]:6/d",
    "postgresql://a,b,c:1/d",
    "postgresql://a:1,/d",
    "postgresql://,/d",
    "postgresql://h/d%00",
    "postgresql://h/d%zz",
    "postgresql://h/d%4",
    "postgresql://h/d+e?application_name=a+b",
    "postgresql://h/d?",
    "postgresql://h/d?user=&password=",
    "postgresql://h/a/b",
    "postgresql://h#fragment",
    "postgresql://@h",
    "postgresql://:p@h",
    "postgresql://u:@h",
    "postgresql://h?&",
    "host=localhost port=5432 dbname=mydb connect_timeout=10",
    "  host = 'a b'\tport='1'\n user=u\\ v dbname='it\\'s \\\\ '",
    "host= user=u",
    "host=h user= password=",
    "host",
    "host=a b",
    "a b=c",
    "=x",
    "host='x",
    "host='a'b",
    "host='a'user=b",
    "host=h host=i",
    "host=h nonsense=1",
    "dbname=a=b",
    "host=h password=p\\",
    "service=s host=h",
    "host=h,i port=1,2 hostaddr=127.0.0.1,127.0.0.2",
];

/// psycopg's parser is libpq's own.
#[test]
fn what_libpq_reads_is_read_alike_and_what_it_refuses_is_refused() {
    let python = std::env::var("AGENTKIT_TEST_PYTHON").expect("run ./test");
    let script = "import json, sys
from psycopg.conninfo import conninfo_to_dict
def read(text):
    try:
        return conninfo_to_dict(text)
    except Exception:
        return None
print(json.dumps([read(text) for text in json.load(sys.stdin)]))";
    let input = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(input.path(), serde_json::to_string(STRINGS).unwrap()).unwrap();
    let output = Command::new(python)
        .args(["-c", script])
        .stdin(std::fs::File::open(input.path()).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let theirs: Vec<Option<BTreeMap<String, String>>> =
        serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(theirs.len(), STRINGS.len());
    let refused = theirs.iter().filter(|read| read.is_none()).count();
    assert!((10..40).contains(&refused), "{theirs:?}");
    for (text, theirs) in STRINGS.iter().zip(theirs) {
        let ours = match read(text) {
            Ok(Written::Postgres(written)) => Some(written.into_iter().collect()),
            Ok(other) => panic!("{text}: {other:?}"),
            Err(_) => None,
        };
        assert_eq!(ours, theirs, "{text}");
    }
}

#[test]
fn each_way_to_write_a_server_is_understood() {
    let place = |text| places(&resolve(text, &[]).unwrap());
    assert_eq!(place("postgresql://u@[::1]:1/d"), [network("::1", 1)]);
    assert_eq!(place("postgresql+psycopg://u@h/d"), [network("h", 5432)]);
    assert_eq!(
        place("postgresql://a:1,b:2/d"),
        [network("a", 1), network("b", 2)]
    );
    assert_eq!(place("host=a,b port=7"), [network("a", 7), network("b", 7)]);
    assert_eq!(
        place("postgresql:///d?host=/run/pg&port=3"),
        [(Place::Socket("/run/pg".into()), 3)]
    );
    let by_variables = resolve(
        "postgresql://",
        &[
            ("PGHOST", "h"),
            ("PGPORT", "9"),
            ("PGUSER", "u"),
            ("PGDATABASE", "d"),
        ],
    );
    let by_variables = by_variables.unwrap();
    assert_eq!(places(&by_variables), [network("h", 9)]);
    assert_eq!(
        (&*by_variables.user, by_variables.database.as_deref()),
        ("u", Some("d"))
    );
    let options = resolve("host=h options='-c a=b --c-d=e\\\\ f -cg=h'", &[])
        .unwrap()
        .options;
    let expected = [("a", "b"), ("c_d", "e f"), ("g", "h")];
    assert_eq!(
        options,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[test]
fn each_way_to_write_a_file_is_understood() {
    let file = |path: &str| {
        let access = Access::Create;
        Written::Sqlite(SqliteFile {
            path: path.into(),
            access,
        })
    };
    for (text, expected) in [
        (":memory:", Written::SqliteMemory),
        ("sqlite::memory:", Written::SqliteMemory),
        ("sqlite://:memory:", Written::SqliteMemory),
        ("sqlite:a?mode=memory", Written::SqliteMemory),
        ("agents.db", file("agents.db")),
        ("/var/lib/agents.sqlite3", file("/var/lib/agents.sqlite3")),
        ("sqlite:agents", file("agents")),
        ("sqlite:///var/agents", file("/var/agents")),
        ("sqlite:/tmp/a:memory:b.db", file("/tmp/a:memory:b.db")),
        ("/tmp/a:memory:b.db", file("/tmp/a:memory:b.db")),
        ("sqlite:a=b", file("a=b")),
        ("sqlite:a%20b%3F", file("a b?")),
    ] {
        assert_eq!(read(text), Ok(expected), "{text}");
    }
    for (text, reason) in [
        ("", "is empty"),
        ("  ", "is empty"),
        ("sqlite:", "names no SQLite file"),
        ("sqlite:a?mode=x", "mode"),
        ("sqlite:a?timeout=5", "`timeout`"),
        ("sqlite+aiosqlite:///a.db", "SQLAlchemy"),
        ("file:a.db", "SQLite's own"),
        ("mysql://localhost", "postgresql://"),
        ("agents", "postgresql://"),
        ("postgresql:localhost", "two slashes"),
        ("postgresql://h/d?hots=x", "did you mean host?"),
        ("host=h sslrotcert=x", "did you mean sslrootcert?"),
    ] {
        let fault = read(text).unwrap_err();
        assert!(fault.contains(reason), "{text}: {fault}");
    }
}

#[test]
fn what_is_not_heeded_is_refused_by_the_name_that_was_used() {
    for (text, reason) in [
        ("postgresql://h?channel_binding=require", "channel_binding"),
        ("host=h keepalives_idle=30", "keepalives_idle"),
        ("host=h sslcrl=/x", "sslcrl"),
        ("host=h sslmode=sometimes", "sslmode"),
        ("host=h sslnegotiation=direct", "sslnegotiation"),
        (
            "host=h ssl_min_protocol_version=TLSv1.3",
            "ssl_min_protocol_version",
        ),
        ("host=h gssencmode=require", "gssencmode"),
        ("host=h requirepeer=postgres", "requirepeer"),
        ("host=h require_auth=scram-sha-256", "require_auth"),
        (
            "host=h target_session_attrs=standby",
            "target_session_attrs",
        ),
        ("host=h load_balance_hosts=random", "load_balance_hosts"),
        ("host=h client_encoding=latin1", "client_encoding"),
        ("host=h options='-f x'", "options"),
        ("host=h port=0", "port"),
        ("host=h,i port=1,2,3", "port"),
        ("host=h hostaddr=1.2.3.4,1.2.3.5", "hostaddr"),
        ("host=@abstract", "abstract"),
        ("host=h connect_timeout=soon", "connect_timeout"),
        (
            "host=h sslrootcert=/no/such.pem",
            "sslrootcert is `/no/such.pem`",
        ),
        ("host=h sslmode=verify-full", "sslrootcert"),
        (
            "host=h sslrootcert=system sslmode=require",
            "sslrootcert=system",
        ),
        ("service=nowhere", "`nowhere`"),
    ] {
        let fault = resolve(text, &[]).unwrap_err();
        assert!(fault.contains(reason), "{text}: {fault}");
    }
    let fault = resolve("host=h", &[("PGREQUIREPEER", "postgres")]).unwrap_err();
    assert!(fault.contains("PGREQUIREPEER"), "{fault}");
    let harmless = "host=h channel_binding=prefer gssencmode=disable client_encoding=UTF8 \
                    sslnegotiation=postgres target_session_attrs=any";
    resolve(harmless, &[]).unwrap();
}

#[test]
fn a_service_stands_between_the_string_and_the_environment() {
    let home = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(home.path().join(name), text).unwrap();
    write(
        ".pg_service.conf",
        "# mine\n[other]\nhost=other\n\n[mine]\nhost=served\nport=7\nuser=su\n[last]\nhost=last\n",
    );
    let path = home.path().to_str().unwrap();
    let variables = [
        ("HOME", path),
        ("PGHOST", "environment"),
        ("PGUSER", "eu"),
        ("PGDATABASE", "ed"),
    ];
    let postgres = resolve("service=mine port=8", &variables).unwrap();
    assert_eq!(places(&postgres), [network("served", 8)]);
    assert_eq!(
        (&*postgres.user, postgres.database.as_deref()),
        ("su", Some("ed"))
    );
    let named = [&variables[..], &[("PGSERVICE", "last")]].concat();
    assert_eq!(
        places(&resolve("postgresql://", &named).unwrap()),
        [network("last", 5432)]
    );
    write("bad.conf", "[a]\nnonsense\n[b]\nservice=a\n[c]\nhots=x");
    let file = format!("{path}/bad.conf");
    for (service, reason) in [
        ("a", "line 2"),
        ("b", "line 4"),
        ("c", "hots"),
        ("d", "`d`"),
    ] {
        let text = format!("service={service}");
        let fault = resolve(&text, &[("HOME", path), ("PGSERVICEFILE", &file)]).unwrap_err();
        assert!(fault.contains(reason), "{fault}");
    }
}

#[cfg(unix)]
#[test]
fn a_password_comes_from_a_file_that_only_its_owner_reads() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("passwords");
    let text = "# h:1:d:u:no\nh:1:d:other:no\nh:*:d:u:s3\\:cr\\\\et\n*:*:*:*:any\n";
    std::fs::write(&file, text).unwrap();
    let mode = |mode| std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    let password = |text: &str| {
        let text = format!("{text} passfile='{}'", file.display());
        resolve(&text, &[]).unwrap().hosts[0].password()
    };
    mode(0o600);
    assert_eq!(
        password("host=h port=1 dbname=d user=u").as_deref(),
        Some("s3:cr\\et")
    );
    assert_eq!(password("host=i user=u").as_deref(), Some("any"));
    assert_eq!(
        password("host=h user=u dbname=d password=x").as_deref(),
        Some("x")
    );
    mode(0o640);
    assert_eq!(password("host=h port=1 dbname=d user=u"), None);
}

#[test]
fn the_modes_of_tls_depend_on_the_files_that_are_there_as_libpq_says() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().to_str().unwrap();
    let mode = |text: &str| resolve(text, &[("HOME", path)]).unwrap().tls.mode;
    assert_eq!(mode("host=h"), TlsMode::Prefer);
    assert_eq!(mode("host=h sslmode=require"), TlsMode::Require);
    assert_eq!(mode("host=h sslrootcert=system"), TlsMode::VerifyFull);
    std::fs::create_dir(home.path().join(".postgresql")).unwrap();
    std::fs::write(home.path().join(".postgresql/root.crt"), "").unwrap();
    assert_eq!(mode("host=h"), TlsMode::Prefer);
    assert_eq!(mode("host=h sslmode=require"), TlsMode::VerifyCa);
    assert_eq!(mode("host=h sslmode=verify-full"), TlsMode::VerifyFull);
}

proptest::proptest! {
    #[test]
    fn no_string_makes_it_panic_or_show_its_password(text in r"(postgresql://|sqlite:|)[ -~é]{0,40}", other in ".{0,40}") {
        for text in [&*text, &*other] {
            let _ = (read(text), display(text), has_secret(text));
            if let Ok(Written::Postgres(written)) = read(text) {
                let _ = Postgres::resolve(&written, &|_| None);
            }
        }
        let with_password = format!("postgresql://u:hunter2@h/{}", Path::new(&text).display());
        proptest::prop_assert!(!display(&with_password).contains("hunter2"));
        if let Err(fault) = read(&with_password) {
            proptest::prop_assert!(!fault.contains("hunter2"), "{}", fault);
        }
    }
}
