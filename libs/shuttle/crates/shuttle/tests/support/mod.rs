//! Two hosts in network namespaces, joined by a veth, each with a shuttle and a netns helper under
//! users of their own.

pub(crate) mod seal_tap;

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint as ChannelEndpoint, Uri};

#[allow(missing_docs, unreachable_pub, clippy::pedantic, dead_code, reason = "generated")]
pub(crate) mod weftline {
    pub(crate) mod common {
        pub(crate) mod v1 {
            tonic::include_proto!("weftline.common.v1");
        }
    }
    pub(crate) mod shuttle {
        pub(crate) mod v1 {
            tonic::include_proto!("weftline.shuttle.v1");
        }
    }
}

pub(crate) use weftline::common::v1::Carrier;
pub(crate) use weftline::shuttle::v1::shuttle_service_client::ShuttleServiceClient;
pub(crate) use weftline::shuttle::v1::*;

pub(crate) type Client = ShuttleServiceClient<Channel>;

/// Users that exist nowhere else.
const SHUTTLE_UID: u32 = 64_701;
pub(crate) const SHUTTLE_CAPABILITIES: &str = "+net_admin,+net_raw,+bpf";
const HELPER_UID: u32 = 64_702;
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const NETWORK_ID: u32 = 5;
pub(crate) const VNI: u32 = 0x00ab_cdef;
pub(crate) const MTU_BYTES: u32 = 1320;

/// Removes what a test made, whatever happens to it.
pub(crate) struct World {
    pub(crate) folder: PathBuf,
    namespaces: Vec<String>,
    mounts: Vec<PathBuf>,
    processes: Mutex<Vec<Child>>,
    tag: String,
}

/// One host.
pub(crate) struct Host {
    pub(crate) name: &'static str,
    pub(crate) id: u32,
    pub(crate) underlay: &'static str,
    folder: PathBuf,
    namespace: String,
}

/// An endpoint as the tests name it.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) id: u32,
    pub(crate) host_id: u32,
}

impl Subject {
    pub(crate) fn ipv4(&self) -> String {
        format!("10.20.0.{}", self.id)
    }

    pub(crate) fn ipv6(&self) -> String {
        format!("fd20::{}", self.id)
    }

    pub(crate) fn mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, 0, u8::try_from(self.id).expect("small")]
    }

    fn message(&self) -> Endpoint {
        let addresses = [self.ipv4(), self.ipv6()].map(|text| address(&text));
        Endpoint {
            endpoint_id: self.id,
            network_id: NETWORK_ID,
            mac: self.mac().to_vec(),
            addresses: addresses.to_vec(),
            allowed_prefixes: Vec::new(),
            host_id: self.host_id,
        }
    }

    pub(crate) fn attachment(&self, world: &World) -> AttachPortRequest {
        let path = world.path(self.name);
        let netns = NetnsAttachment { path, device: String::new(), keep_routes: false };
        AttachPortRequest {
            endpoint: Some(self.message()),
            network: Some(network()),
            prefix_lengths_bits: vec![16, 64],
            attachment: Some(attach_port_request::Attachment::Netns(netns)),
            sealed: true,
        }
    }
}

fn network() -> Network {
    Network {
        network_id: NETWORK_ID,
        vni: VNI,
        mtu_bytes: MTU_BYTES,
        gateway_ipv4: address("10.20.0.1"),
        gateway_ipv6: address("fd20::1"),
    }
}

pub(crate) fn address(text: &str) -> Vec<u8> {
    match text.parse().expect("an address") {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Why the tests cannot run here.
pub(crate) fn skip_reason() -> Option<&'static str> {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        return Some("needs root to make namespaces");
    }
    ["ip", "nsenter", "setpriv", "ping", "mount"]
        .into_iter()
        .any(|tool| {
            Command::new(tool)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_err()
        })
        .then_some("needs iproute2, util-linux and ping")
}

pub(crate) fn run(words: &str) -> Output {
    let mut words = words.split_whitespace();
    let output = Command::new(words.next().expect("a command"))
        .args(words)
        .output()
        .expect("the command starts");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

impl World {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("ts{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(format!("weft-{tag}"));
        fs::create_dir_all(&folder).expect("a folder");
        fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("its mode");
        // The clone may lie where the shuttle's user cannot read.
        for (name, binary) in [
            ("weft-shuttle", PathBuf::from(env!("CARGO_BIN_EXE_weft-shuttle"))),
            ("weft-netns", helper_binary()),
        ] {
            fs::copy(&binary, folder.join(name))
                .unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        }
        Self {
            folder,
            namespaces: Vec::new(),
            mounts: Vec::new(),
            processes: Mutex::default(),
            tag,
        }
    }

    /// A namespace of the test's own.
    pub(crate) fn add_namespace(&mut self, name: &str) {
        let namespace = format!("{}-{name}", self.tag);
        run(&format!("ip netns add {namespace}"));
        self.namespaces.push(namespace);
        self.inside(name, "ip link set lo up");
    }

    pub(crate) fn remove_namespace(&self, name: &str) {
        run(&format!("ip netns delete {}-{name}", self.tag));
    }

    pub(crate) fn path(&self, name: &str) -> String {
        format!("/run/netns/{}-{name}", self.tag)
    }

    pub(crate) fn inside(&self, name: &str, words: &str) -> Output {
        run(&format!("nsenter --net={} {words}", self.path(name)))
    }

    pub(crate) fn spawn_inside(&self, name: &str, words: &str) -> Child {
        Command::new("nsenter")
            .arg(format!("--net={}", self.path(name)))
            .args(words.split_whitespace())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command starts")
    }

    /// Two hosts on one underlay link.
    pub(crate) fn add_hosts(&mut self) -> [Host; 2] {
        self.add_namespace("alpha");
        self.add_namespace("beta");
        let other = self.path("beta");
        self.inside("alpha", &format!("ip link add ul0 type veth peer name ul0 netns {other}"));
        let hosts = [("alpha", 1, "192.0.2.1"), ("beta", 2, "192.0.2.2")];
        hosts.map(|(name, id, underlay)| {
            self.inside(name, &format!("ip address add {underlay}/24 dev ul0"));
            self.inside(name, "ip link set ul0 up");
            let folder = self.folder.join(name);
            for part in ["bpf", "state", "helper"] {
                fs::create_dir_all(folder.join(part)).expect("a folder");
            }
            run(&format!("mount -t bpf bpf {}", folder.join("bpf").display()));
            self.mounts.push(folder.join("bpf"));
            run(&format!("mknod {} c 10 200", folder.join("tun").display()));
            for part in ["", "bpf", "state", "tun"] {
                chown(folder.join(part), Some(SHUTTLE_UID), Some(SHUTTLE_UID)).expect("root may");
            }
            chown(folder.join("helper"), Some(HELPER_UID), Some(HELPER_UID)).expect("root may");
            Host { name, id, underlay, namespace: self.path(name), folder }
        })
    }

    fn start(&self, host: &Host, uid: u32, capabilities: &str, arguments: &[String]) -> u32 {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(host.folder.join("log"))
            .expect("a log file");
        let child = Command::new("nsenter")
            .arg(format!("--net={}", host.namespace))
            .args([
                "setpriv",
                &format!("--reuid={uid}"),
                &format!("--regid={uid}"),
                "--clear-groups",
                "--no-new-privs",
            ])
            .args([
                format!("--inh-caps=-all,{capabilities}"),
                format!("--ambient-caps=-all,{capabilities}"),
                format!("--bounding-set=-all,{capabilities}"),
            ])
            .args(arguments)
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("the process starts");
        let pid = child.id();
        self.processes.lock().expect("no panic").push(child);
        pid
    }

    pub(crate) fn start_helper(&self, host: &Host) {
        let arguments = [
            self.folder.join("weft-netns").display().to_string(),
            "--socket".to_owned(),
            host.helper_socket().display().to_string(),
            "--admit-uid".to_owned(),
            SHUTTLE_UID.to_string(),
        ];
        self.start(host, HELPER_UID, "+sys_admin,+net_raw", &arguments);
        host.until("the helper listens", || host.helper_socket().exists());
    }

    /// Starts the shuttle and waits until it answers; gives its process id.
    pub(crate) async fn start_shuttle(&self, host: &Host) -> (u32, Client) {
        let arguments = self.shuttle_arguments(host);
        let pid = self.start(host, SHUTTLE_UID, SHUTTLE_CAPABILITIES, &arguments);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(mut client) = host.connect().await
                && client.get_info(GetInfoRequest {}).await.is_ok()
            {
                return (pid, client);
            }
            assert!(Instant::now() < deadline, "the shuttle does not answer: {}", host.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts the shuttle where it cannot run; gives its exit code.
    pub(crate) fn fail_shuttle(&self, host: &Host, capabilities: &str) -> Option<i32> {
        self.start(host, SHUTTLE_UID, capabilities, &self.shuttle_arguments(host));
        let mut shuttle = self.processes.lock().expect("no panic").pop().expect("just started");
        shuttle.wait().expect("a child").code()
    }

    fn shuttle_arguments(&self, host: &Host) -> Vec<String> {
        let pairs = [
            ("--socket", host.folder.join("shuttle.sock")),
            ("--netns-socket", host.helper_socket()),
            ("--bpffs", host.folder.join("bpf")),
            ("--state-folder", host.folder.join("state")),
            ("--tun-node", host.folder.join("tun")),
            ("--trace-file", host.folder.join("trace")),
            ("--host-name", PathBuf::from(host.name)),
            ("--admit-uid", PathBuf::from("0")),
        ];
        let mut arguments = vec![self.folder.join("weft-shuttle").display().to_string()];
        for (flag, value) in pairs {
            arguments.extend([flag.to_owned(), value.display().to_string()]);
        }
        arguments
    }

    /// Removes everything that a shuttle made, by its own flag.
    pub(crate) fn clean_up(&self, host: &Host) {
        let mut arguments = self.shuttle_arguments(host);
        arguments.push("--cleanup".to_owned());
        run(&format!("nsenter --net={} {}", host.namespace, arguments.join(" ")));
    }

    pub(crate) fn kill(&self, pid: u32, signal: i32) {
        let mut processes = self.processes.lock().expect("no panic");
        let at =
            processes.iter().position(|child| child.id() == pid).expect("a process of this test");
        // SAFETY: no pointers; the child has not been waited for, so the id is still its own.
        unsafe { libc::kill(i32::try_from(pid).expect("a process id"), signal) };
        processes.remove(at).wait().expect("a child");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for process in self.processes.get_mut().expect("no panic") {
            let _ = process.kill();
            let _ = process.wait();
        }
        for mount in &self.mounts {
            if std::thread::panicking() {
                let log = mount.with_file_name("log");
                eprintln!("{}:\n{}", log.display(), fs::read_to_string(&log).unwrap_or_default());
            }
            let _ = Command::new("umount").arg(mount).status();
        }
        for namespace in &self.namespaces {
            let _ = Command::new("ip")
                .args(["netns", "delete", namespace])
                .stderr(Stdio::null())
                .status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Host {
    pub(crate) fn helper_socket(&self) -> PathBuf {
        self.folder.join("helper/netns.sock")
    }

    pub(crate) fn shuttle_socket(&self) -> PathBuf {
        self.folder.join("shuttle.sock")
    }

    /// Folders of pinned programs, maps and links.
    pub(crate) fn pins(&self) -> usize {
        let entries = fs::read_dir(self.folder.join("bpf")).expect("a bpffs");
        entries.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir())).count()
    }

    /// When the shuttle last showed its programs that it lives, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) fn heartbeat_ns(&self) -> u64 {
        let pin = self.folder.join(format!("bpf/v{}/maps/config", weft_abi::ABI));
        let map = aya::maps::MapData::from_pin(pin).expect("the map config");
        let map = aya::maps::Array::<_, [u8; size_of::<weft_abi::Config>()]>::try_from(
            aya::maps::Map::Array(map),
        );
        let row = map.expect("an array").get(&0, 0).expect("a row");
        let at = std::mem::offset_of!(weft_abi::Config, heartbeat_ns);
        u64::from_ne_bytes(row[at..at + 8].try_into().expect("eight bytes"))
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(crate) fn traces(&self) -> String {
        fs::read_to_string(self.folder.join("trace")).unwrap_or_default()
    }

    pub(crate) fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    async fn connect(&self) -> Result<Client, tonic::transport::Error> {
        Ok(Client::new(self.channel().await?))
    }

    pub(crate) async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let path = self.shuttle_socket();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        let endpoint = ChannelEndpoint::from_static("http://shuttle");
        endpoint.connect_with_connector(connector).await
    }
}

fn helper_binary() -> PathBuf {
    // Built beside the shuttle, whose package does not own it.
    Path::new(env!("CARGO_BIN_EXE_weft-shuttle")).with_file_name("weft-netns")
}

/// Everything that a host needs to know of these endpoints and the other host, which has the network
/// in the clear.
pub(crate) fn tables(
    host: &Host,
    other: &Host,
    subjects: &[Subject],
    revision: u64,
) -> Vec<ApplyTablesRequest> {
    tables_by(host, other, subjects, revision, &[Carrier::Vxlan])
}

/// The same with the network sealed.
pub(crate) fn sealed_tables(
    host: &Host,
    other: &Host,
    subjects: &[Subject],
    revision: u64,
) -> Vec<ApplyTablesRequest> {
    tables_by(host, other, subjects, revision, &[Carrier::Sealed])
}

/// The same with an entry of the other host for each of these carriers, of which the last has the
/// network.
pub(crate) fn tables_by(
    host: &Host,
    other: &Host,
    subjects: &[Subject],
    revision: u64,
    carriers: &[Carrier],
) -> Vec<ApplyTablesRequest> {
    let peer = |carrier: Carrier| {
        let is_sealed = carrier == Carrier::Sealed;
        let address_of = |text| if is_sealed { Vec::new() } else { address(text) };
        let has_network = carriers.last() == Some(&carrier);
        Peer {
            host_id: other.id,
            carrier: carrier.into(),
            local_address: address_of(host.underlay),
            remote_address: address_of(other.underlay),
            foreign: false,
            network_ids: has_network.then_some(NETWORK_ID).into_iter().collect(),
            sealed: is_sealed.then(|| SealedPeer { public_key: vec![7; 32], ..Default::default() }),
        }
    };
    let mut changes = vec![table_change::Change::PutNetwork(network())];
    changes.extend(carriers.iter().map(|carrier| table_change::Change::PutPeer(peer(*carrier))));
    changes.extend(
        subjects.iter().map(|subject| table_change::Change::PutEndpoint(subject.message())),
    );
    let changes = changes
        .into_iter()
        .map(|change| TableChange { change: Some(change), ..TableChange::default() })
        .collect();
    vec![ApplyTablesRequest { base_revision: 0, revision, local_host_id: host.id, changes }]
}

pub(crate) async fn apply(
    client: &mut Client,
    tables: Vec<ApplyTablesRequest>,
) -> Result<u64, tonic::Status> {
    Ok(client.apply_tables(tokio_stream::iter(tables)).await?.into_inner().revision)
}

/// Answers misses as a forwarder does, by where the endpoints are and one carrier, until it is
/// dropped.
pub(crate) struct Answerer {
    task: tokio::task::JoinHandle<()>,
    pub(crate) misses: Arc<Mutex<Vec<Miss>>>,
}

impl Answerer {
    pub(crate) async fn start(
        client: &Client,
        host: &Host,
        subjects: &[Subject],
        table_revision: u64,
        carrier: Carrier,
    ) -> Self {
        let (answers, receiver) = mpsc::channel(16);
        let mut client = client.clone();
        let mut batches = client
            .handle_misses(ReceiverStream::new(receiver))
            .await
            .expect("the stream opens")
            .into_inner();
        let (host_id, subjects) = (host.id, subjects.to_vec());
        let misses = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&misses);
        let task = tokio::spawn(async move {
            while let Ok(Some(batch)) = batches.message().await {
                let flow = |miss: &Miss| {
                    let target =
                        subjects.iter().find(|subject| subject.id == miss.target_endpoint_id)?;
                    Some(flow(miss.source_endpoint_id, target, host_id, table_revision, carrier))
                };
                let flows = batch.misses.iter().filter_map(flow).collect();
                seen.lock().expect("no panic").extend(batch.misses);
                if answers
                    .send(HandleMissesRequest { flows, unresolved: Vec::new() })
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
        Self { task, misses }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn flow(
    source_endpoint_id: u32,
    target: &Subject,
    host_id: u32,
    table_revision: u64,
    carrier: Carrier,
) -> Flow {
    let is_here = target.host_id == host_id;
    Flow {
        source_endpoint_id,
        target_endpoint_id: target.id,
        action: if is_here { FlowAction::SameHost } else { FlowAction::Direct }.into(),
        drop_reason: String::new(),
        target_host_id: if is_here { 0 } else { target.host_id },
        carrier: if is_here { Carrier::None } else { carrier }.into(),
        table_revision,
    }
}

/// Received packets of a run of ping.
pub(crate) fn received(output: &Output) -> u32 {
    let text = String::from_utf8_lossy(&output.stdout);
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words
        .iter()
        .position(|word| word.starts_with("received"))
        .unwrap_or_else(|| panic!("{text}"));
    words[at - 1].parse().expect("a number")
}
