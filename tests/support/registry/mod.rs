//! A registry inside the test process that answers honestly until it is told to lie.
//!
//! Speaks as much of HTTP/1.1 and of the distribution specification as a client needs, one thread a connection, one
//! request a connection. Everything that is asked of it is logged.

pub mod debian;
mod honest;
pub mod image;
mod lists;
pub mod personality;
pub mod tls;
mod uploads;
mod wire;

use std::collections::{BTreeMap, HashMap};
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
    /// The honest answer, with a pause behind each piece of so many bytes.
    Slow(usize, Duration),
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
    /// Answers with bodies that are being given, and the most that were at once.
    giving: usize,
    most_giving: usize,
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
                wire::serve(&mut stream.unwrap(), &state, address, &closing).ok();
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
                        None => wire::serve(&mut stream, &state, address, &closing).ok(),
                        Some(tls) => wire::serve(&mut tls::accept(tls, stream), &state, address, &closing).ok(),
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

    /// The most slow answers that were given at the same time.
    pub fn most_at_once(&self) -> usize {
        self.state().most_giving
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
