//! Who is let through, by which credentials, and what others are told: over HTTP/1.1, HTTP/2, and for ordinary resources.

use std::{
    cell::{Cell, RefCell},
    fmt::Write as _,
    fs,
    path::PathBuf,
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use monoio::{
    io::{AsyncReadRent, AsyncWriteRentExt},
    net::{ListenerOpts, TcpListener, TcpStream},
};
use switchpoint::{
    Config, Error, Registry, Rejection, Request, Resource, Response, Upgrade, Upgraded,
    authorize::{
        Allow, Authorizer, Basic, Bearer, Cookie, Forward, Identity, Issuer, Jwt, Settings, Sources,
    },
    protocols::{Echo, WebSocket, websocket::Socket},
};

use crate::harness::{Answer, Site, Transport, config, everywhere, handshake, milliseconds, on};

const TOKEN: &str = "s3cr3t-token-of-alice";
const KEY: &str = "s3cr3t-key-of-thirty-two-bytes-or-more";
const PASSWORD: &str = "s3cr3t password";

fn bearer(sources: Sources) -> Settings {
    Bearer { tokens: vec![format!("alice:{TOKEN}").into()], sources, ..Bearer::default() }.into()
}

fn cookie_settings() -> Cookie {
    Cookie { keys: vec![KEY.into()], ..Cookie::default() }
}

fn cookie(lifetime: u64) -> String {
    let identity = Identity::new("login").named("carol").with("role", "admin");
    Issuer::new(&cookie_settings()).unwrap().issue(&identity, Duration::from_secs(lifetime))
}

/// A JSON Web Token, signed with HS256.
fn token(claims: &serde_json::Value) -> String {
    jsonwebtoken::encode(
        &jsonwebtoken::Header::default(),
        claims,
        &jsonwebtoken::EncodingKey::from_secret(KEY.as_bytes()),
    )
    .unwrap()
}

fn later(seconds: i64) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_secs().cast_signed() + seconds
}

/// A file that goes with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("switchpoint-{name}-{}", std::process::id()));
        fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

fn passwords(name: &str) -> File {
    // The cheapest there is: it is not the hash that is tested.
    File::new(name, &format!("# staff\nbob:{}\n", bcrypt::hash(PASSWORD, 4).unwrap()))
}

fn told(identity: Option<&Identity>) -> String {
    match identity {
        Some(identity) => format!("{} {}\n", identity.by(), identity.subject().unwrap_or("-")),
        None => "nobody\n".into(),
    }
}

/// Says who asked for it.
async fn who(connection: Upgraded) -> Result<(), Error> {
    connection.write_all(told(connection.identity()).as_bytes()).await
}

async fn who_by_message(socket: Socket) -> Result<(), Error> {
    socket.send(&told(socket.identity())).await
}

/// The same, as an ordinary resource.
struct Who;

impl Resource for Who {
    async fn answer(&self, request: &Request<'_>) -> Result<Response, Rejection> {
        Ok(Response::text(told(request.identity().as_deref())))
    }
}

/// Everything at `/`, behind `authorizer`.
fn registry(authorizer: &Authorizer) -> Registry {
    Registry::new()
        .at("/", WebSocket::new(who_by_message).subprotocols(&["chat"]).authorized_by(authorizer.clone()))
        .resource("/", Who.authorized_by(authorizer.clone()))
        .get("/open", |_| Response::text("open"))
}

/// Sends the request in each of its forms; what is told, or the refusal.
async fn ask(site: &Site, target: &str, fields: &[(&str, &str)]) -> Result<String, Answer> {
    let lines = fields.iter().fold(String::new(), |mut lines, (name, value)| {
        let _ = write!(lines, "{name}: {value}\r\n");
        lines
    });
    let ordinary = site.ask(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n")).await;
    let mut client = site.connect();
    client.send(handshake(target, &lines)).await;
    let switched = client.answer().await;
    let http2 = site.connect().http2().await;
    let mut with_version = vec![("sec-websocket-version", "13")];
    with_version.extend(fields);
    let on_stream = http2.connect(target, "websocket", &with_version).await;
    let mut request = http::Request::get(format!("http://a.example{target}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let over_http2 = http2.ask(request.body(()).unwrap(), b"").await;
    if switched.status == 101 {
        let told = String::from_utf8(client.frame().await.payload).unwrap();
        let (_, mut stream) = on_stream.unwrap_or_else(|status| panic!("{status} over HTTP/2"));
        assert_eq!(stream.frame().await.payload, told.as_bytes(), "over HTTP/2");
        assert_eq!((ordinary.status, &ordinary.body), (200, &told), "as a resource");
        assert_eq!(over_http2.body(), told.as_bytes(), "as a resource over HTTP/2");
        return Ok(told);
    }
    assert_eq!(on_stream.err(), Some(switched.status), "over HTTP/2");
    assert_eq!((ordinary.status, ordinary.reason()), (switched.status, switched.reason()), "as a resource");
    assert_eq!(over_http2.status(), switched.status, "as a resource over HTTP/2");
    let challenges = |answer: &Answer| answer.all("www-authenticate").map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(challenges(&ordinary), challenges(&switched));
    Err(switched)
}

#[track_caller]
fn refuses(asked: Result<String, Answer>, status: u16, reason: &str, challenge: &str) {
    let answer = asked.expect_err("it is refused");
    answer.refuses(status, reason);
    assert!(answer.field("www-authenticate").unwrap_or_default().starts_with(challenge), "{answer:?}");
}

#[test]
fn each_kind_lets_through_whom_it_knows_and_tells_others_why_not() {
    let passwords = passwords("kinds");
    let basic = |credentials: &str| format!("Basic {}", BASE64_STANDARD.encode(credentials));
    let jwt = Jwt { secret: Some(KEY.into()), ..Jwt::default() };
    type Case<'a> = (&'a str, String, Result<&'a str, (u16, &'a str, &'a str)>);
    let bearer_challenge = "Bearer realm=\"switchpoint\"";
    let kinds: Vec<(Settings, Vec<Case<'_>>)> = vec![
        (
            bearer(Sources::default()),
            vec![
                ("authorization", format!("Bearer {TOKEN}"), Ok("bearer alice\n")),
                ("authorization", format!("bearer  {TOKEN}"), Ok("bearer alice\n")),
                (
                    "authorization",
                    format!("Bearer {TOKEN}x"),
                    Err((401, "invalid-credentials", bearer_challenge)),
                ),
                ("authorization", format!("Basic {TOKEN}"), Err((401, "unauthorized", bearer_challenge))),
                ("cookie", format!("token={TOKEN}"), Err((401, "unauthorized", bearer_challenge))),
            ],
        ),
        (
            jwt.into(),
            vec![
                (
                    "authorization",
                    format!("Bearer {}", token(&serde_json::json!({ "sub": "dave", "exp": later(60) }))),
                    Ok("jwt dave\n"),
                ),
                (
                    "authorization",
                    format!("Bearer {}", token(&serde_json::json!({ "sub": "dave", "exp": later(-600) }))),
                    Err((
                        401,
                        "expired-credentials",
                        "Bearer realm=\"switchpoint\", error=\"invalid_token\"",
                    )),
                ),
                (
                    "authorization",
                    format!("Bearer {}x", token(&serde_json::json!({ "sub": "dave", "exp": later(60) }))),
                    Err((
                        401,
                        "invalid-credentials",
                        "Bearer realm=\"switchpoint\", error=\"invalid_token\"",
                    )),
                ),
            ],
        ),
        (
            cookie_settings().into(),
            vec![
                ("cookie", format!("a=b; {}", cookie(60)), Ok("cookie carol\n")),
                ("cookie", cookie(0), Err((401, "expired-credentials", "Cookie realm="))),
                ("cookie", format!("{}x", cookie(60)), Err((401, "invalid-credentials", "Cookie realm="))),
                ("cookie", "other=1".into(), Err((401, "unauthorized", "Cookie realm="))),
            ],
        ),
        (
            Basic { file: passwords.0.clone(), ..Basic::default() }.into(),
            vec![
                ("authorization", basic(&format!("bob:{PASSWORD}")), Ok("basic bob\n")),
                (
                    "authorization",
                    basic(&format!("bob:{PASSWORD}x")),
                    Err((401, "invalid-credentials", "Basic realm=")),
                ),
                (
                    "authorization",
                    basic(&format!("eve:{PASSWORD}")),
                    Err((401, "invalid-credentials", "Basic realm=")),
                ),
                ("authorization", basic("bob"), Err((401, "invalid-credentials", "Basic realm="))),
                ("authorization", "Basic !".into(), Err((401, "invalid-credentials", "Basic realm="))),
                ("x", "y".into(), Err((401, "unauthorized", "Basic realm="))),
            ],
        ),
    ];
    for (settings, cases) in kinds {
        everywhere(
            || registry(&settings.build().unwrap()),
            async |site| {
                for (name, value, expected) in &cases {
                    let asked = ask(site, "/", &[(name, value)]).await;
                    match expected {
                        Ok(told) => assert_eq!(asked.as_deref().unwrap(), *told),
                        Err((status, reason, challenge)) => refuses(asked, *status, reason, challenge),
                    }
                }
                assert_eq!(site.ask("GET /open HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
            },
        );
    }
}

#[test]
fn a_token_is_looked_for_where_it_may_be_and_nowhere_else() {
    let sources = Sources {
        authorization: false,
        subprotocol: Some("bearer.".into()),
        cookie: Some("token".into()),
        query: Some("access_token".into()),
    };
    on(Transport::Memory, config(), registry(&bearer(sources).build().unwrap()), async |site| {
        let subprotocol = format!("chat, bearer.{TOKEN}");
        let in_cookie = format!("token={TOKEN}");
        let authorization = format!("Bearer {TOKEN}");
        for (target, fields) in [
            ("/".to_owned(), vec![("sec-websocket-protocol", &*subprotocol)]),
            ("/".to_owned(), vec![("cookie", &*in_cookie)]),
            (format!("/?a=b&access_token={}", TOKEN.replace('-', "%2d")), vec![]),
        ] {
            assert_eq!(ask(site, &target, &fields).await.unwrap(), "bearer alice\n");
        }
        refuses(ask(site, "/", &[("authorization", &authorization)]).await, 401, "unauthorized", "Bearer");
        refuses(ask(site, &format!("/?token={TOKEN}"), &[]).await, 401, "unauthorized", "Bearer");

        // It is not spoken, and not said again.
        let mut client = site.connect();
        client.send(handshake("/", &format!("Sec-WebSocket-Protocol: bearer.{TOKEN}, chat\r\n"))).await;
        assert_eq!(client.answer().await.field("sec-websocket-protocol"), Some("chat"));
    });
}

#[test]
fn two_authorizations_are_none() {
    on(Transport::Memory, config(), registry(&bearer(Sources::default()).build().unwrap()), async |site| {
        let twice = [("authorization", &*format!("Bearer {TOKEN}")), ("authorization", "Bearer another")];
        refuses(ask(site, "/", &twice).await, 401, "unauthorized", "Bearer");
    });
}

#[test]
fn any_of_several_is_enough_and_all_of_several_are_needed() {
    let any = Settings {
        any_of: Some(vec![bearer(Sources::default()), cookie_settings().into()]),
        ..Settings::default()
    };
    let all = Settings {
        all_of: Some(vec![cookie_settings().into(), bearer(Sources::default())]),
        ..Settings::default()
    };
    let authorization = format!("Bearer {TOKEN}");
    let cookie = cookie(60);
    on(Transport::Memory, config(), registry(&any.build().unwrap()), async |site| {
        assert_eq!(ask(site, "/", &[("authorization", &authorization)]).await.unwrap(), "bearer alice\n");
        assert_eq!(ask(site, "/", &[("cookie", &cookie)]).await.unwrap(), "cookie carol\n");
        let answer = ask(site, "/", &[]).await.unwrap_err();
        answer.refuses(401, "unauthorized");
        let challenges: Vec<_> = answer.all("www-authenticate").collect();
        assert_eq!(challenges, ["Bearer realm=\"switchpoint\"", "Cookie realm=\"switchpoint\""]);
        // What was wrong says more than what was missing.
        refuses(ask(site, "/", &[("cookie", "session=x")]).await, 401, "invalid-credentials", "Bearer");
    });
    on(Transport::Memory, config(), registry(&all.build().unwrap()), async |site| {
        let both = [("authorization", &*authorization), ("cookie", &*cookie)];
        assert_eq!(ask(site, "/", &both).await.unwrap(), "cookie carol\n", "the first name counts");
        refuses(ask(site, "/", &both[..1]).await, 401, "unauthorized", "Cookie");
        refuses(ask(site, "/", &both[1..]).await, 401, "unauthorized", "Bearer");
    });
}

#[test]
fn who_is_known_and_may_not_gets_403() {
    let claims = [("role".to_owned(), vec!["admin".to_owned()])].into();
    let allow = Allow { subjects: Vec::new(), claims };
    let settings = |allow| Settings { allow: Some(allow), ..Settings::from(cookie_settings()) };
    let cookie = cookie(60);
    on(Transport::Memory, config(), registry(&settings(allow).build().unwrap()), async |site| {
        assert_eq!(ask(site, "/", &[("cookie", &cookie)]).await.unwrap(), "cookie carol\n");
        refuses(ask(site, "/", &[]).await, 401, "unauthorized", "Cookie");
    });
    let allow = Allow { subjects: vec!["alice".into()], ..Allow::default() };
    on(Transport::Memory, config(), registry(&settings(allow).build().unwrap()), async |site| {
        refuses(ask(site, "/", &[("cookie", &cookie)]).await, 403, "forbidden", "");
    });
}

#[test]
fn a_guard_stands_before_all_that_a_path_has() {
    let guarded = || {
        Registry::new()
            .guard("/", bearer(Sources::default()).build().unwrap())
            .at("/", WebSocket::new(who_by_message))
            .resource("/", Who)
            .get("/open", |_| Response::text("open"))
            .guard("/at-once", bearer(Sources::default()).build().unwrap())
            .get("/at-once", |request| Response::text(told(request.identity().as_deref())))
            .on("who", who)
            .with(switchpoint::protocols::H2c::new())
    };
    everywhere(guarded, async |site| {
        let authorization = format!("Bearer {TOKEN}");
        assert_eq!(ask(site, "/", &[("authorization", &authorization)]).await.unwrap(), "bearer alice\n");
        refuses(ask(site, "/", &[]).await, 401, "unauthorized", "Bearer");
        // A protocol of every path is one of this path, too.
        let upgrade = |path: &str, fields: &str| {
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: who\r\n{fields}\r\n")
        };
        site.ask(upgrade("/", "")).await.refuses(401, "unauthorized");
        let mut client = site.switched(upgrade("/", &format!("Authorization: {authorization}\r\n"))).await;
        client.expect("bearer alice\n").await;
        let mut client = site.switched(upgrade("/open", "")).await;
        client.expect("nobody\n").await;
        let get = |fields: &str| format!("GET /at-once HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        site.ask(get("")).await.refuses(401, "unauthorized");
        assert_eq!(
            site.ask(get(&format!("Authorization: {authorization}\r\n"))).await.body,
            "bearer alice\n"
        );
        assert_eq!(site.connect().http2().await.get("/at-once").await.status(), 401);
        assert_eq!(site.ask("OPTIONS /at-once HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 204);
        assert_eq!(site.ask("GET /open HTTP/1.1\r\nHost: a\r\n\r\n").await.body, "open");
        // The upgrade to HTTP/2 is no way around it: the request is answered on stream 1, and judged there.
        let h2c = "GET /at-once HTTP/1.1\r\nHost: a\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\n\
            HTTP2-Settings: AAMAAABk\r\n\r\n";
        let mut client = site.switched(h2c).await;
        client.send(crate::harness::http2::preface(&[])).await;
        let head = client.http2_frame_of(crate::harness::http2::HEADERS).await;
        assert_ne!(head.payload[0], 0x88, "this is 200");
    });
}

/// A server to ask: what it was asked, and what it answers.
struct Oracle {
    url: String,
    asked: Rc<RefCell<Vec<String>>>,
    answer: Rc<RefCell<Vec<u8>>>,
    delay: Rc<Cell<u64>>,
    /// How many are asking, and how many have at one time.
    busy: Rc<Cell<(usize, usize)>>,
}

impl Oracle {
    fn new() -> Self {
        let listener =
            TcpListener::bind_with_config("127.0.0.1:0", &ListenerOpts::new().reuse_port(false)).unwrap();
        let url = format!("http://{}/check", listener.local_addr().unwrap());
        let oracle = Self {
            url,
            asked: Rc::default(),
            answer: Rc::default(),
            delay: Rc::default(),
            busy: Rc::default(),
        };
        let (asked, answer) = (Rc::clone(&oracle.asked), Rc::clone(&oracle.answer));
        let (delay, busy) = (Rc::clone(&oracle.delay), Rc::clone(&oracle.busy));
        monoio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (asked, answer) = (Rc::clone(&asked), answer.borrow().clone());
                let (delay, busy) = (delay.get(), Rc::clone(&busy));
                monoio::spawn(async move {
                    let (now, most) = busy.get();
                    busy.set((now + 1, most.max(now + 1)));
                    serve(stream, &asked, answer, delay).await;
                    busy.set((busy.get().0 - 1, busy.get().1));
                });
            }
        });
        oracle
    }

    fn answers(&self, answer: &str) {
        *self.answer.borrow_mut() = answer.as_bytes().to_vec();
    }

    fn settings(&self) -> Forward {
        Forward {
            url: self.url.clone(),
            timeout_ms: 300,
            subject: Some("Remote-User".into()),
            answer_fields: vec!["X-Role".into()],
            refusal_fields: vec!["X-Login".into()],
            ..Forward::default()
        }
    }
}

async fn serve(mut stream: TcpStream, asked: &RefCell<Vec<String>>, answer: Vec<u8>, delay: u64) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let (result, bytes) = stream.read(Vec::with_capacity(4096)).await;
        match result {
            Ok(count) if count > 0 => head.extend_from_slice(&bytes),
            _ => return,
        }
    }
    asked.borrow_mut().push(String::from_utf8(head).unwrap());
    milliseconds(delay).await;
    drop(stream.write_all(answer).await);
}

/// The registry has to be there before its oracle's runtime is: so the authorizer comes later.
#[derive(Clone, Default)]
struct Later(Rc<RefCell<Option<Authorizer>>>);

impl switchpoint::authorize::Authorize for Later {
    async fn authorize(&self, request: &Request<'_>) -> Result<Identity, Rejection> {
        let authorizer = self.0.borrow().clone().expect("it was set");
        authorizer.authorize(request).await
    }
}

fn with_oracle(test: impl AsyncFn(&Site, &Oracle, &Later)) {
    let later = Later::default();
    on(Transport::Tcp, config(), registry(&Authorizer::new(later.clone())), async |site| {
        let oracle = Oracle::new();
        *later.0.borrow_mut() = Some(Settings::from(oracle.settings()).build().unwrap());
        test(site, &oracle, &later).await;
    });
}

#[test]
fn another_server_decides_and_is_believed_in_doubt_only_where_it_says_yes() {
    with_oracle(async |site, oracle, later| {
        oracle.answers("HTTP/1.1 200 OK\r\nRemote-User: frank\r\nX-Role: admin\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(ask(site, "/", &[]).await.unwrap(), "forward frank\n");
        oracle.answers("HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(ask(site, "/", &[]).await.unwrap(), "forward -\n");

        oracle.answers(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Negotiate\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\
             X-Login: https://login.example\r\nX-Other: hidden\r\n\r\n",
        );
        let answer = ask(site, "/", &[]).await.unwrap_err();
        answer.refuses(401, "unauthorized");
        let challenges: Vec<_> = answer.all("www-authenticate").collect();
        assert_eq!(challenges, ["Negotiate", "Basic realm=\"x\""]);
        assert_eq!((answer.field("x-login"), answer.field("x-other")), (Some("https://login.example"), None));
        oracle.answers("HTTP/1.1 401 Unauthorized\r\n\r\n");
        refuses(ask(site, "/", &[]).await, 401, "unauthorized", "Bearer realm=");

        for (answer, status, reason) in [
            ("HTTP/1.1 403 Forbidden\r\n\r\n", 403, "forbidden"),
            ("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", 403, "forbidden"),
            ("HTTP/1.1 404 Not Found\r\n\r\n", 403, "forbidden"),
            ("HTTP/1.1 500 Oh\r\n\r\n", 503, "authorization-unavailable"),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", 503, "authorization-unavailable"),
            ("HTTP/1.1 200", 503, "authorization-unavailable"),
            ("", 503, "authorization-unavailable"),
            ("SSH-2.0-OpenSSH\r\n", 503, "authorization-unavailable"),
            (
                &format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(20_000)),
                503,
                "authorization-unavailable",
            ),
            (&format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(200)), 503, "authorization-unavailable"),
        ] {
            oracle.answers(answer);
            refuses(ask(site, "/", &[]).await, status, reason, "");
        }
        // It says yes, but too late.
        oracle.answers("HTTP/1.1 200 OK\r\n\r\n");
        oracle.delay.set(600);
        refuses(ask(site, "/", &[]).await, 503, "authorization-unavailable", "");
        // Nobody is there.
        let gone = Forward { url: "http://127.0.0.1:1/".into(), ..oracle.settings() };
        *later.0.borrow_mut() = Some(Settings::from(gone).build().unwrap());
        refuses(ask(site, "/", &[]).await, 503, "authorization-unavailable", "");
    });
}

#[test]
fn the_other_server_sees_what_it_needs_and_nothing_else() {
    with_oracle(async |site, oracle, _| {
        oracle.answers("HTTP/1.1 204 No Content\r\n\r\n");
        let fields =
            "Authorization: Bearer x\r\nCookie: a=b\r\nX-Forwarded-For: 203.0.113.1\r\nX-Private: y\r\n";
        site.switched(handshake("/?x=1", fields)).await;
        let asked = oracle.asked.borrow().last().unwrap().clone();
        let lines: Vec<&str> = asked.trim_end().split("\r\n").collect();
        let own = oracle.url.trim_start_matches("http://").trim_end_matches("/check");
        assert_eq!(
            lines,
            [
                "GET /check HTTP/1.1",
                &format!("Host: {own}"),
                "Connection: close",
                "Accept: */*",
                "X-Forwarded-Method: GET",
                "X-Forwarded-Proto: http",
                "X-Forwarded-Host: a.example",
                "X-Forwarded-Uri: /?x=1",
                "X-Forwarded-For: 127.0.0.1",
                "authorization: Bearer x",
                "cookie: a=b",
            ]
        );
    });
}

#[test]
fn no_more_ask_at_a_time_than_may_and_the_others_wait_or_are_told() {
    with_oracle(async |site, oracle, later| {
        oracle.answers("HTTP/1.1 204 No Content\r\n\r\n");
        oracle.delay.set(1000); // for the first two, until all are there
        let settings = Forward { calls_max: 2, timeout_ms: 5_000, ..oracle.settings() };
        *later.0.borrow_mut() = Some(Settings::from(settings).build().unwrap());
        let mut clients = Vec::new();
        // Two ask, sixteen wait, two are too many.
        for _ in 0..20 {
            let mut client = site.connect();
            client.send(handshake("/", "")).await;
            clients.push(client);
            milliseconds(1).await;
        }
        oracle.delay.set(10);
        let mut statuses = Vec::new();
        for client in &mut clients {
            statuses.push(client.answer().await.status);
        }
        let of = |status| statuses.iter().filter(|one| **one == status).count();
        assert_eq!((of(101), of(503)), (18, 2), "{statuses:?}");
        assert_eq!(oracle.busy.get().1, 2);
    });
}

/// Collects all that is logged, down to the last detail of our own, and what others say at `debug`.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

struct Line<'a>(&'a mut String);

impl tracing::field::Visit for Line<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("switchpoint") || *metadata.level() <= tracing::Level::DEBUG
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let mut text = self.0.lock().unwrap();
        span.record(&mut Line(&mut text));
        text.push('\n');
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        values.record(&mut Line(&mut self.0.lock().unwrap()));
    }

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = self.0.lock().unwrap();
        event.record(&mut Line(&mut text));
        text.push('\n');
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn nothing_secret_is_logged() {
    let log = Log::default();
    let passwords = passwords("log");
    let signed = token(&serde_json::json!({ "sub": "dave", "exp": later(60), "note": "s3cr3t claim" }));
    let expired = token(&serde_json::json!({ "sub": "dave", "exp": later(-600) }));
    let cookie = cookie(60);
    let sources = Sources {
        authorization: true,
        subprotocol: Some("bearer.".into()),
        cookie: Some("token".into()),
        query: Some("access_token".into()),
    };
    let settings = Settings {
        any_of: Some(vec![
            bearer(sources.clone()),
            Jwt { secret: Some(KEY.into()), sources, ..Jwt::default() }.into(),
            cookie_settings().into(),
            Basic { file: passwords.0.clone(), ..Basic::default() }.into(),
        ]),
        ..Settings::default()
    };
    let shown = format!("{settings:?} {}", serde_json::to_string(&settings).unwrap());
    let basic = |text: String| format!("Basic {}", BASE64_STANDARD.encode(text));
    let right = basic(format!("bob:{PASSWORD}"));
    let wrong = basic(format!("bob:{PASSWORD}x"));
    // While there is one subscriber alone, whichever test's thread meets a line of the log first is asked whether anybody
    // listens, and its no holds for all threads. With two of them each is asked.
    let _second = tracing::Dispatch::new(log.clone());
    tracing::subscriber::with_default(log.clone(), || {
        let registry = Registry::new()
            .guard("/", settings.build().unwrap())
            .at("/", WebSocket::new(who_by_message).subprotocols(&["chat"]))
            .at("/", Echo)
            .get("/", |request| {
                tracing::info!(?request, "as a handler may");
                Response::text(told(request.identity().as_deref()))
            });
        let registry = registry.resource("/who", Who);
        on(Transport::Tcp, Config { ..config() }, registry, async |site| {
            let in_cookie = format!("token={TOKEN}");
            let in_subprotocol = format!("chat, bearer.{TOKEN}");
            let in_vain = format!("chat, bearer.{TOKEN}x");
            for (target, fields) in [
                ("/".to_owned(), vec![("authorization", format!("Bearer {TOKEN}"))]),
                ("/".to_owned(), vec![("authorization", format!("Bearer {TOKEN}x"))]),
                ("/".to_owned(), vec![("authorization", format!("Bearer {signed}"))]),
                ("/".to_owned(), vec![("authorization", format!("Bearer {signed}x"))]),
                ("/".to_owned(), vec![("authorization", format!("Bearer {expired}"))]),
                ("/".to_owned(), vec![("authorization", right.clone())]),
                ("/".to_owned(), vec![("authorization", wrong.clone())]),
                ("/".to_owned(), vec![("cookie", in_cookie)]),
                ("/".to_owned(), vec![("cookie", cookie.clone())]),
                ("/".to_owned(), vec![("cookie", format!("{cookie}x"))]),
                ("/".to_owned(), vec![("sec-websocket-protocol", in_subprotocol)]),
                ("/".to_owned(), vec![("sec-websocket-protocol", in_vain)]),
                (format!("/?access_token={TOKEN}"), vec![]),
                (format!("/?access_token={TOKEN}x"), vec![]),
            ] {
                let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
                // A thread may have been about to note its no when the second one came.
                tracing::callsite::rebuild_interest_cache();
                // How each is answered is for others to say.
                drop(ask(site, &target, &fields).await);
            }
            drop(
                site.ask(format!("GET /?access_token={TOKEN} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")).await,
            );
        });
    });
    let text = log.0.lock().unwrap().clone() + &shown;
    assert!(text.contains("authorized") && text.contains("refused") && text.contains("Request"), "{text}");
    let in_base64 = [&right, &wrong].map(|text| text.strip_prefix("Basic ").unwrap().to_owned());
    let signature = |token: &str| token.rsplit_once('.').unwrap().1.to_owned();
    let secrets = in_base64.into_iter().chain([
        "s3cr3t".to_owned(),
        signature(&signed),
        signature(&expired),
        signature(&cookie),
    ]);
    for secret in secrets {
        let found = text.lines().find(|line| line.contains(&secret));
        assert_eq!(found, None, "{secret} is in the log");
    }
}

#[cfg(feature = "tls")]
#[test]
fn a_client_is_known_by_its_certificate() {
    use switchpoint::{
        Stream, Worker,
        authorize::Certificate,
        duplex,
        protocols::websocket::Client,
        tls::{self, Acceptor, ClientSettings, Connector, Trust},
    };

    let identity = |name: &str| tls::Identity::self_signed(&[name.to_owned()]).unwrap();
    let (server, anna, berta) = (identity("localhost"), identity("anna"), identity("berta"));
    let authorities = match (&anna.chain, &berta.chain) {
        (tls::Pem::Text(anna), tls::Pem::Text(berta)) => tls::Pem::Text(format!("{anna}{berta}")),
        _ => panic!("they were made here"),
    };
    let acceptor =
        Acceptor::new(tls::Settings { client_authorities: Some(authorities), ..tls::Settings::from(server) });
    let acceptor = acceptor.unwrap();
    let settings = Settings::from(Certificate { names: vec!["anna".into()], ..Certificate::default() });
    let registry = registry(&settings.build().unwrap());
    on(Transport::Memory, config(), registry, async |site| {
        for (who, expected) in
            [(Some(&anna), Ok("certificate anna\n")), (Some(&berta), Err(403)), (None, Err(403))]
        {
            let (near, far) = duplex::pair();
            monoio::spawn(site.worker.serve(acceptor.accept(Stream::from(far)), None));
            let settings =
                ClientSettings { trust: Trust::Anyone, identity: who.cloned(), ..ClientSettings::default() };
            let connector = Connector::new(&settings).unwrap();
            let stream = connector.connect(near.into(), "localhost", Duration::from_secs(5)).await.unwrap();
            let worker = Worker::new(config(), Registry::new());
            let told = RefCell::new(String::new());
            let asked = Client::new()
                .connect_over(&worker, stream, "ws://localhost/", async |mut socket: Socket| {
                    let message = socket.recv().await?;
                    *told.borrow_mut() =
                        message.and_then(|message| message.text().map(str::to_owned)).unwrap_or_default();
                    Ok(())
                })
                .await;
            match (asked, expected) {
                (Ok(()), Ok(name)) => assert_eq!(*told.borrow(), name),
                (Err(Error::Refused(refusal)), Err(status)) => assert_eq!(refusal.status(), status),
                (asked, expected) => panic!("{asked:?} and not {expected:?}"),
            }
        }
    });
}
