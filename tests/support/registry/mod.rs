//! A registry inside the test process that answers honestly until it is told to lie.
//!
//! Speaks as much of HTTP/1.1 and of the distribution specification as a client needs, one thread a connection, one
//! request a connection. Everything that is asked of it is logged.

pub mod debian;
pub mod image;
mod lists;
pub mod personality;
pub mod tls;
mod uploads;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use builder::oci::Digest;

use personality::Personality;

/// How the registry misbehaves, instead of its answer or in it.
#[derive(Clone, Debug)]
pub enum Lie {
    /// Another answer altogether: status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The honest answer, cut off after so many bytes of its body.
    Cut(usize),
    /// The connection is closed without any answer.
    Slam,
    /// The honest answer with another value of a header; `None` leaves the header out.
    Header(&'static str, Option<String>),
    /// The honest answer with another body, of which the headers tell.
    Body(Vec<u8>),
    /// The honest answer to the same request without its `Range`.
    WholeInstead,
    /// The connection is closed when so many bytes of the request's body have come, which an upload keeps.
    CutRequest(usize),
    /// The request is granted, and the connection closed without an answer.
    Lost,
    /// A byte every so often, and no end.
    Drip(Duration),
}

impl Lie {
    pub fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), Vec::new())
    }

    pub fn redirect(status: u16, location: impl Into<String>) -> Self {
        Self::Answer(status, vec![("Location", location.into())], Vec::new())
    }
}

struct Rule {
    method: &'static str,
    path: String,
    skip: usize,
    times: usize,
    lie: Lie,
}

/// What the registry wants to see.
#[derive(Clone, Debug, Default)]
pub enum Guard {
    /// Nothing.
    #[default]
    Open,
    /// Name and password, each time.
    Basic(&'static str),
    /// A token from `/token`, which wants to see name and password, an identity token (after `token:`), or nothing.
    Bearer(Option<&'static str>),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub target: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    fn query(&self, name: &str) -> Option<String> {
        let url = url::Url::parse(&format!("http://x{}", self.target)).unwrap();
        url.query_pairs()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16) -> Self {
        Self {
            status,
            headers: BTreeMap::new(),
            body: Vec::new(),
        }
    }

    fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.insert(name.into(), value.to_string());
        self
    }

    fn error(status: u16, code: &str) -> Self {
        let body = serde_json::json!({"errors": [{"code": code, "message": code.to_lowercase()}]});
        Self {
            body: body.to_string().into_bytes(),
            ..Self::new(status)
        }
    }
}

#[derive(Default)]
struct State {
    /// By repository and digest.
    blobs: HashMap<(String, String), Vec<u8>>,
    /// By repository and tag or digest.
    manifests: HashMap<(String, String), (String, Vec<u8>)>,
    rules: Vec<Rule>,
    guard: Guard,
    mounts: bool,
    /// Whether a blob may come with the request that would begin its upload.
    single_posts: bool,
    /// What parts of uploads must have at least.
    least_part: Option<u64>,
    /// What came of uploads that are open.
    uploads: HashMap<String, Vec<u8>>,
    /// Whether there is a list of referrers.
    referrers: bool,
    /// Whose ways it has, and where blobs lie then.
    personality: Personality,
    storage: String,
    /// What was made before, where pushes make no repositories.
    repositories: Vec<String>,
    /// Entries of a list that are told at a time.
    page: usize,
    log: Vec<Request>,
    /// Whether the token server takes names and passwords in forms, and gives identity tokens to come back with.
    oauth: bool,
    /// Tokens that are good; forgotten by [`LyingRegistry::forget_tokens`].
    tokens: Vec<String>,
    issued: usize,
}

/// The registry. Ends when dropped.
pub struct LyingRegistry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    closing: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl LyingRegistry {
    /// Over plain HTTP.
    pub fn start() -> Self {
        Self::start_over(None)
    }

    /// Over TLS, as `localhost`, with a certificate of the authority in [`tls::AUTHORITY`].
    pub fn start_tls() -> Self {
        Self::start_over(Some(tls::configuration()))
    }

    /// Over TLS, for those who show the certificate [`tls::CLIENT`].
    pub fn start_for_clients() -> Self {
        Self::start_over(Some(tls::configuration_for_clients()))
    }

    /// As a proxy: whatever is asked through it, itself answers, over TLS too.
    pub fn start_proxy() -> Self {
        Self::start_over(None)
    }

    /// On a Unix socket at `path`, too.
    pub fn listen_at(&self, path: &Path) {
        let listener = UnixListener::bind(path).unwrap();
        let (state, closing, address) = (self.state.clone(), self.closing.clone(), self.address);
        // Ends with the test: nobody needs to wait for it.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(&mut stream.unwrap(), &state, address, &closing).ok();
            }
        });
    }

    fn start_over(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            mounts: true,
            page: 100,
            ..State::default()
        }));
        let closing = Arc::new(AtomicBool::new(false));
        let acceptor = std::thread::spawn({
            let (state, closing) = (state.clone(), closing.clone());
            move || {
                for stream in listener.incoming() {
                    if closing.load(Ordering::SeqCst) {
                        return;
                    }
                    let (state, closing, tls) = (state.clone(), closing.clone(), tls.clone());
                    let mut stream = stream.unwrap();
                    // A client that goes away in the middle is no failure of the registry.
                    std::thread::spawn(move || match tls {
                        None => serve(&mut stream, &state, address, &closing).ok(),
                        Some(tls) => serve(&mut tls::accept(tls, stream), &state, address, &closing).ok(),
                    });
                }
            }
        });
        Self {
            address,
            state,
            closing,
            acceptor: Some(acceptor),
        }
    }

    /// `127.0.0.1:<port>`, as it stands in references.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn guard(&self, guard: Guard) {
        self.state().guard = guard;
    }

    pub fn refuse_mounts(&self) {
        self.state().mounts = false;
    }

    /// Lists what refers to manifests, as registries of the distribution specification 1.1 do.
    pub fn list_referrers(&self) {
        self.state().referrers = true;
    }

    /// Has the token server speak OAuth2: it takes names and passwords in forms, and gives the identity token `come-back`.
    pub fn speak_oauth(&self) {
        self.state().oauth = true;
    }

    /// Takes the ways of a known registry, whose blobs lie at `storage`.
    pub fn behave(&self, personality: Personality, storage: &str) {
        let mut state = self.state();
        state.personality = personality;
        state.storage = storage.to_owned();
    }

    /// Makes a repository, by its name within slashes.
    pub fn make_repository(&self, name: &str) {
        self.state().repositories.push(name.to_owned());
    }

    /// Tells `entries` entries of a list at a time.
    pub fn page(&self, entries: usize) {
        self.state().page = entries;
    }

    pub fn take_single_posts(&self) {
        self.state().single_posts = true;
    }

    /// Wants uploads in parts of at least so many bytes.
    pub fn want_parts(&self, least: u64) {
        self.state().least_part = Some(least);
    }

    /// Uploads that were begun, and neither ended nor given up.
    pub fn open_uploads(&self) -> usize {
        self.state().uploads.len()
    }

    pub fn forget_tokens(&self) {
        self.state().tokens.clear();
    }

    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.state()
            .blobs
            .insert((repository.into(), digest.to_string()), bytes.to_vec());
        digest
    }

    pub fn put_manifest(&self, repository: &str, name: &str, kind: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        for name in [name, &digest.to_string()] {
            self.state()
                .manifests
                .insert((repository.into(), name.into()), (kind.into(), bytes.to_vec()));
        }
        digest
    }

    pub fn blob(&self, repository: &str, digest: Digest) -> Option<Vec<u8>> {
        self.state()
            .blobs
            .get(&(repository.into(), digest.to_string()))
            .cloned()
    }

    pub fn manifest(&self, repository: &str, name: &str) -> Option<Vec<u8>> {
        let key = (repository.into(), name.into());
        self.state().manifests.get(&key).map(|(_, bytes)| bytes.clone())
    }

    /// Lies `times` times, to requests of `method` whose path contains `path`.
    pub fn lie(&self, method: &'static str, path: impl ToString, times: usize, lie: Lie) {
        self.lie_later(method, path, 0, times, lie);
    }

    /// The same after `skip` honest answers.
    pub fn lie_later(&self, method: &'static str, path: impl ToString, skip: usize, times: usize, lie: Lie) {
        let path = path.to_string();
        self.state().rules.push(Rule {
            method,
            path,
            skip,
            times,
            lie,
        });
    }

    /// What was asked so far.
    pub fn log(&self) -> Vec<Request> {
        self.state().log.clone()
    }

    /// How often something was asked for.
    pub fn count(&self, method: &str, path: impl ToString) -> usize {
        let path = path.to_string();
        let matching = |request: &&Request| request.method == method && request.target.contains(&path);
        self.state().log.iter().filter(matching).count()
    }
}

impl Drop for LyingRegistry {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // The acceptor waits for a connection: this is one.
        drop(TcpStream::connect(self.address));
        let _ = self.acceptor.take().unwrap().join();
    }
}

fn serve(
    stream: &mut (impl Read + Write),
    state: &Mutex<State>,
    address: SocketAddr,
    closing: &AtomicBool,
) -> std::io::Result<()> {
    // One request a connection: what is buffered belongs to it.
    let mut reader = BufReader::new(&mut *stream);
    let request = read_head(&mut reader)?;
    // A tunnel through the proxy leads to the registry itself, over TLS.
    if request.method == "CONNECT" && !state.lock().unwrap().is_to_lie(&request) {
        state.lock().unwrap().log.push(request);
        stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
        let mut inner = tls::accept(tls::configuration(), stream);
        let mut reader = BufReader::new(&mut inner);
        let request = read_head(&mut reader)?;
        return respond(reader, request, state, address, closing);
    }
    respond(reader, request, state, address, closing)
}

fn respond<S: Read + Write>(
    mut reader: BufReader<&mut S>,
    mut request: Request,
    state: &Mutex<State>,
    address: SocketAddr,
    closing: &AtomicBool,
) -> std::io::Result<()> {
    let lie = take_lie(&mut state.lock().unwrap(), &request);
    let most = match lie {
        Some(Lie::CutRequest(most)) => most,
        _ => usize::MAX,
    };
    request.body = read_body(&mut reader, &request, most)?;
    state.lock().unwrap().log.push(request.clone());
    if let Some(Lie::CutRequest(_)) = lie {
        request.headers.remove("content-range");
        request.method = "PATCH".into();
        honest(&mut state.lock().unwrap(), &request, address);
        return Ok(());
    }
    let mut answer = match &lie {
        Some(Lie::Slam) => return Ok(()),
        Some(Lie::Lost) => {
            honest(&mut state.lock().unwrap(), &request, address);
            return Ok(());
        }
        Some(Lie::Answer(status, headers, body)) => {
            let answer = headers
                .iter()
                .fold(Answer::new(*status), |answer, (name, value)| answer.with(name, value));
            Answer {
                body: body.clone(),
                ..answer
            }
        }
        lie => {
            if matches!(lie, Some(Lie::WholeInstead)) {
                request.headers.remove("range");
            }
            honest(&mut state.lock().unwrap(), &request, address)
        }
    };
    match &lie {
        Some(Lie::Header(name, Some(value))) => answer = answer.with(name, value),
        Some(Lie::Header(name, None)) => _ = answer.headers.remove(*name),
        Some(Lie::Body(body)) => answer.body = body.clone(),
        _ => {}
    }
    write(*reader.get_mut(), &request, answer, lie.as_ref(), closing)
}

impl State {
    fn is_to_lie(&self, request: &Request) -> bool {
        let matching =
            |rule: &Rule| rule.method == request.method && request.target.contains(&rule.path) && rule.times > 0;
        self.rules.iter().any(matching)
    }
}

fn take_lie(state: &mut State, request: &Request) -> Option<Lie> {
    let matching =
        |rule: &&mut Rule| rule.method == request.method && request.target.contains(&rule.path) && rule.times > 0;
    let rule = state.rules.iter_mut().find(matching)?;
    if rule.skip > 0 {
        rule.skip -= 1;
        return None;
    }
    rule.times -= 1;
    Some(rule.lie.clone())
}

fn read_head(reader: &mut impl BufRead) -> std::io::Result<Request> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(std::io::ErrorKind::InvalidData.into());
    };
    let (method, mut target) = (method.to_owned(), target.to_owned());
    let mut headers = HashMap::new();
    // What a proxy is asked begins with the server that is meant.
    if let Some((server, path)) = target.strip_prefix("http://").and_then(|rest| rest.split_once('/')) {
        headers.insert("asked-for".to_owned(), server.to_owned());
        target = format!("/{path}");
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok(Request {
        method,
        target,
        headers,
        body: Vec::new(),
    })
}

/// The body, whole or in chunks (RFC 9112 section 7.1), or as much of it as is wanted.
fn read_body(reader: &mut impl BufRead, request: &Request, most: usize) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let length = |request: &Request| {
        request
            .header("content-length")
            .map_or(0, |length| length.parse().unwrap())
    };
    if request.header("transfer-encoding") != Some("chunked") {
        body.resize(most.min(length(request)), 0);
        reader.read_exact(&mut body)?;
        return Ok(body);
    }
    while body.len() < most {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Ok(length) = usize::from_str_radix(line.trim(), 16) else {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        };
        let start = body.len();
        body.resize(start + length, 0);
        reader.read_exact(&mut body[start..])?;
        reader.read_line(&mut line)?;
        if length == 0 {
            break;
        }
    }
    body.truncate(most);
    Ok(body)
}

fn write(
    stream: &mut impl Write,
    request: &Request,
    mut answer: Answer,
    lie: Option<&Lie>,
    closing: &AtomicBool,
) -> std::io::Result<()> {
    let length = answer.body.len().to_string();
    if !answer.headers.contains_key("Transfer-Encoding") {
        answer.headers.entry("Content-Length".into()).or_insert(length);
    }
    let mut head = format!("HTTP/1.1 {} Whatever\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    match lie {
        Some(Lie::Cut(length)) => stream.write_all(&answer.body[..*length]),
        Some(Lie::Drip(pause)) => {
            for byte in &answer.body {
                if closing.load(Ordering::SeqCst) {
                    break;
                }
                stream.write_all(&[*byte])?;
                std::thread::sleep(*pause);
            }
            Ok(())
        }
        _ => stream.write_all(&answer.body),
    }
}

fn honest(state: &mut State, request: &Request, address: SocketAddr) -> Answer {
    personality::answer(state, request, address)
}

/// What a registry without ways of its own answers.
fn plain(state: &mut State, request: &Request, address: SocketAddr) -> Answer {
    if request.path() == "/token" {
        return token(state, request);
    }
    if !is_admitted(state, request) {
        let challenge = match state.guard {
            Guard::Basic(_) => "Basic realm=\"here\"".to_owned(),
            _ => format!("Bearer realm=\"http://{address}/token\",service=\"here\""),
        };
        return Answer::error(401, "UNAUTHORIZED").with("WWW-Authenticate", challenge);
    }
    let Some(rest) = request.path().strip_prefix("/v2/") else {
        return Answer::error(404, "NAME_UNKNOWN");
    };
    if rest.is_empty() {
        return Answer::new(200);
    }
    if let Some((repository, name)) = rest.split_once("/manifests/") {
        return manifest(state, request, repository, name);
    }
    if let Some((repository, upload)) = rest.split_once("/blobs/uploads/") {
        return uploads::answer(state, request, repository, upload);
    }
    if let Some((repository, digest)) = rest.split_once("/referrers/") {
        return lists::referrers(state, request, repository, digest);
    }
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        return lists::tags(state, request, repository);
    }
    match rest.split_once("/blobs/") {
        Some((repository, digest)) => blob(state, request, repository, digest),
        None => Answer::error(404, "NAME_UNKNOWN"),
    }
}

fn basic(credentials: &str) -> String {
    use base64::Engine as _;
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(credentials)
    )
}

fn is_admitted(state: &State, request: &Request) -> bool {
    let shown = request.header("authorization");
    match state.guard {
        Guard::Open => true,
        Guard::Basic(wanted) => shown == Some(&basic(wanted)),
        Guard::Bearer(_) => shown
            .and_then(|shown| shown.strip_prefix("Bearer "))
            .is_some_and(|token| state.tokens.iter().any(|own| own == token)),
    }
}

fn token(state: &mut State, request: &Request) -> Answer {
    let form: HashMap<String, String> = url::form_urlencoded::parse(&request.body).into_owned().collect();
    let said = |name: &str| form.get(name).map(String::as_str);
    if request.method == "POST" && said("grant_type") == Some("password") && !state.oauth {
        return Answer::error(405, "UNSUPPORTED");
    }
    let good = match state.guard {
        Guard::Bearer(Some(wanted)) => match (wanted.strip_prefix("token:"), said("grant_type")) {
            (Some(identity), _) => request.method == "POST" && said("refresh_token") == Some(identity),
            (None, Some("password")) => {
                let (username, password) = wanted.split_once(':').unwrap();
                said("username") == Some(username) && said("password") == Some(password)
            }
            (None, Some("refresh_token")) => said("refresh_token") == Some("come-back"),
            _ => request.header("authorization") == Some(&basic(wanted)),
        },
        _ => true,
    };
    if !good {
        return Answer::error(401, "UNAUTHORIZED");
    }
    state.issued += 1;
    let token = format!("token-{}", state.issued);
    state.tokens.push(token.clone());
    let mut body = serde_json::json!({"access_token": token, "expires_in": 300});
    if state.oauth && said("access_type") == Some("offline") {
        body["refresh_token"] = "come-back".into();
    }
    if !state.oauth {
        body = serde_json::json!({"token": token, "expires_in": 300});
    }
    Answer {
        body: body.to_string().into_bytes(),
        ..Answer::new(200)
    }
}

fn manifest(state: &mut State, request: &Request, repository: &str, name: &str) -> Answer {
    let key = (repository.to_owned(), name.to_owned());
    if request.method == "PUT" {
        let kind = request.header("content-type").unwrap().to_owned();
        let digest = Digest::of(&request.body).to_string();
        for name in [name, &digest] {
            state
                .manifests
                .insert((repository.into(), name.into()), (kind.clone(), request.body.clone()));
        }
        let answer = Answer::new(201).with("Docker-Content-Digest", digest);
        let document: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
        return match document["subject"]["digest"].as_str() {
            Some(subject) if state.referrers => answer.with("OCI-Subject", subject),
            _ => answer,
        };
    }
    match state.manifests.get(&key) {
        Some((kind, bytes)) => Answer {
            body: bytes.clone(),
            ..Answer::new(200)
                .with("Content-Type", kind)
                .with("Docker-Content-Digest", Digest::of(bytes))
        },
        None => Answer::error(404, "MANIFEST_UNKNOWN"),
    }
}

fn blob(state: &State, request: &Request, repository: &str, digest: &str) -> Answer {
    let Some(bytes) = state.blobs.get(&(repository.to_owned(), digest.to_owned())) else {
        return Answer::error(404, "BLOB_UNKNOWN");
    };
    let range = request
        .header("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    match range.map(|start| start.parse::<usize>().unwrap()) {
        None => Answer {
            body: bytes.clone(),
            ..Answer::new(200)
        },
        Some(start) => Answer {
            body: bytes[start..].to_vec(),
            ..Answer::new(206).with(
                "Content-Range",
                format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()),
            )
        },
    }
}
