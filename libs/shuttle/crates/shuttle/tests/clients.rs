//! `WireGuard` clients, by another implementation of the protocol, as ports of a real shuttle. Needs
//! root; skipped with the reason otherwise.

#[path = "support/phone.rs"]
mod phone;
#[allow(dead_code, reason = "of the tests of two hosts")]
mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use phone::{Phone, echo, public_key, udp_inside};
use support::weftline::common::v1::{Cipher, ConnectionState, OpenConnection};
use support::weftline::shuttle::v1::sealing_service_client::SealingServiceClient;
use support::{
    Answerer, AttachPortRequest, Carrier, Client, ConfigureSealingRequest, Counters,
    DetachPortRequest, Host, ListPortsRequest, MTU_BYTES, Port, Subject, WatchSealedRequest,
    WireguardAttachment, World, apply, attach_port_request::Attachment, port, received,
    skip_reason, tables_by,
};
use tonic::Code;
use tonic::transport::Channel;

const WEB: Subject = Subject { name: "web", id: 11, host_id: 1 };
const API: Subject = Subject { name: "api", id: 13, host_id: 2 };
const PHONE: Subject = Subject { name: "phone", id: 30, host_id: 1 };
const LAPTOP: Subject = Subject { name: "laptop", id: 31, host_id: 1 };
const ALL: [Subject; 4] = [WEB, API, PHONE, LAPTOP];

const HOST_KEY: [u8; 32] = [9; 32];
const PHONE_KEY: [u8; 32] = [30; 32];
const PHONE_PSK: [u8; 32] = [77; 32];
const LAPTOP_KEY: [u8; 32] = [31; 32];
/// As `support::tables_by` says of the other host.
const OTHER_HOSTS_PUBLIC_KEY: [u8; 32] = [7; 32];
const UDP_PORT: u16 = 61_820;
/// Alpha, as clients see it.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PATIENCE: Duration = Duration::from_secs(20);
const CLIENT_BIT: u32 = 1 << 31;

/// Two hosts with an endpoint each, in VXLAN, and a place outside from which clients reach alpha.
struct Lab {
    world: World,
    alpha: Host,
    beta: Host,
    alpha_client: Client,
    alpha_pid: u32,
    sealing: SealingServiceClient<Channel>,
    answerers: Vec<Answerer>,
}

impl Lab {
    /// The clients are attached already, before there is a key.
    async fn start() -> Option<Self> {
        if let Some(reason) = skip_reason() {
            eprintln!("skipped: {reason}");
            return None;
        }
        let mut world = World::new();
        let [alpha, beta] = world.add_hosts();
        for name in [WEB.name, API.name, "outside"] {
            world.add_namespace(name);
        }
        let outside = world.path("outside");
        world
            .inside("alpha", &format!("ip link add out0 type veth peer name out0 netns {outside}"));
        for (name, address) in [("alpha", "198.51.100.1/24"), ("outside", "198.51.100.2/24")] {
            world.inside(name, &format!("ip address add {address} dev out0"));
            world.inside(name, "ip link set out0 up");
        }
        world.inside("outside", "ip address add 198.51.100.3/24 dev out0");
        world.start_helper(&alpha);
        world.start_helper(&beta);
        let (alpha_pid, mut alpha_client) = world.start_shuttle(&alpha).await;
        let (_, mut beta_client) = world.start_shuttle(&beta).await;
        for request in [
            WEB.attachment(&world),
            attachment(&world, PHONE, &PHONE_KEY, Some(PHONE_PSK)),
            attachment(&world, LAPTOP, &LAPTOP_KEY, None),
        ] {
            assert!(
                alpha_client.attach_port(request).await.expect("attached").into_inner().created
            );
        }
        beta_client.attach_port(API.attachment(&world)).await.expect("attached");
        let tables = tables_by(&beta, &alpha, &ALL, 7, &[Carrier::Vxlan]);
        apply(&mut beta_client, tables).await.expect("applied");
        let answerer = Answerer::start(&beta_client, &beta, &ALL, 7, Carrier::Vxlan).await;
        let sealing = SealingServiceClient::new(alpha.channel().await.expect("connected"));
        let answerers = vec![answerer];
        let mut lab = Self { world, alpha, beta, alpha_client, alpha_pid, sealing, answerers };
        lab.drive().await;
        Some(lab)
    }

    /// Gives alpha what a forwarder gives a shuttle that has just started.
    async fn drive(&mut self) {
        let tables = tables_by(&self.alpha, &self.beta, &ALL, 7, &[Carrier::Vxlan]);
        apply(&mut self.alpha_client, tables).await.expect("applied");
        let answerer =
            Answerer::start(&self.alpha_client, &self.alpha, &ALL, 7, Carrier::Vxlan).await;
        self.answerers.push(answerer);
        let request = ConfigureSealingRequest {
            private_key: HOST_KEY.to_vec(),
            listen_port: UDP_PORT.into(),
            ..Default::default()
        };
        let configured = self.sealing.configure_sealing(request).await.expect("configured");
        assert_eq!(configured.into_inner().public_key, public_key(HOST_KEY));
    }

    async fn restart_alpha(&mut self) {
        self.world.kill(self.alpha_pid, libc::SIGKILL);
        self.answerers.pop();
        (self.alpha_pid, self.alpha_client) = self.world.start_shuttle(&self.alpha).await;
        self.sealing = SealingServiceClient::new(self.alpha.channel().await.expect("connected"));
        self.drive().await;
    }

    fn client(&self, subject: Subject, key: [u8; 32], psk: Option<[u8; 32]>) -> Phone {
        let socket = udp_inside(&self.world.path("outside"), "198.51.100.2:0");
        let host = (SocketAddr::from((OUTSIDE, UDP_PORT)), public_key(HOST_KEY));
        Phone::new(socket, key, psk, host, subject.ipv4().parse().expect("an address"))
    }

    fn phone(&self) -> Phone {
        self.client(PHONE, PHONE_KEY, Some(PHONE_PSK))
    }

    fn laptop(&self) -> Phone {
        self.client(LAPTOP, LAPTOP_KEY, None)
    }

    /// An endpoint pings a client; all answers must come.
    fn expect_reached(&self, from: Subject, to: Subject) {
        let words = format!("ping -n -c 3 -i 0.05 -W 15 {}", to.ipv4());
        let output =
            self.world.spawn_inside(from.name, &words).wait_with_output().expect("ping ends");
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(received(&output), 3, "{text}\n{}", self.alpha.log());
    }

    async fn port(&mut self, subject: Subject) -> Port {
        let ports = self.alpha_client.list_ports(ListPortsRequest {}).await.unwrap().into_inner();
        let mut ports = ports.ports.into_iter();
        ports.find(|port| port.endpoint_id == subject.id).expect("a port")
    }

    async fn counters(&mut self, subject: Subject) -> Counters {
        self.port(subject).await.counters.expect("counters")
    }

    async fn attach(&mut self, request: AttachPortRequest) -> Result<bool, tonic::Status> {
        Ok(self.alpha_client.attach_port(request).await?.into_inner().created)
    }

    async fn detach(&mut self, subject: Subject) {
        let request = DetachPortRequest { endpoint_id: subject.id };
        assert!(self.alpha_client.detach_port(request).await.unwrap().into_inner().detached);
    }

    /// Waits until what is told of clients is so.
    async fn until_told(
        &mut self,
        what: &str,
        is_so: impl Fn(&BTreeMap<u32, OpenConnection>) -> bool,
    ) {
        let request = WatchSealedRequest {};
        let mut chunks = self.sealing.watch_sealed(request).await.unwrap().into_inner();
        let mut told = BTreeMap::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let chunk = tokio::time::timeout(left, chunks.message()).await;
            let chunk = chunk.unwrap_or_else(|_| panic!("{what}: {told:?}")).unwrap().unwrap();
            for connection in chunk.connections.into_iter().filter(|it| it.host_id == 0) {
                told.insert(connection.endpoint_id, connection);
            }
            for endpoint_id in chunk.gone_endpoint_ids {
                told.remove(&endpoint_id);
            }
            if chunk.snapshot_complete && is_so(&told) {
                return;
            }
        }
    }
}

fn attachment(
    world: &World,
    subject: Subject,
    private: &[u8; 32],
    psk: Option<[u8; 32]>,
) -> AttachPortRequest {
    with_key(world, subject, public_key(*private), psk)
}

fn with_key(
    world: &World,
    subject: Subject,
    public_key: [u8; 32],
    psk: Option<[u8; 32]>,
) -> AttachPortRequest {
    let client = WireguardAttachment {
        public_key: public_key.to_vec(),
        preshared_key: psk.map_or_else(Vec::new, Vec::from),
    };
    AttachPortRequest {
        attachment: Some(Attachment::Wireguard(client)),
        ..subject.attachment(world)
    }
}

fn address(subject: Subject) -> Ipv4Addr {
    subject.ipv4().parse().expect("an address")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_and_endpoints_here_and_elsewhere_reach_each_other() {
    let Some(mut lab) = Lab::start().await else { return };
    // Nothing waits for one that has not come yet, and nothing is sent to nowhere.
    let words = format!("ping -n -c 1 -W 1 {}", PHONE.ipv4());
    let output = lab.world.spawn_inside(WEB.name, &words).wait_with_output().unwrap();
    assert_eq!(received(&output), 0);
    lab.until_told("idle", |told| told[&PHONE.id].state() == ConnectionState::Idle).await;
    let (phone, laptop) = (lab.phone(), lab.laptop());
    for (sequence, target) in [WEB, API, WEB, API].into_iter().enumerate() {
        phone.ping(&target.ipv4(), u16::try_from(sequence).unwrap());
    }
    laptop.ping(&PHONE.ipv4(), 9);
    for from in [WEB, API] {
        lab.expect_reached(from, PHONE);
        lab.expect_reached(from, LAPTOP);
    }
    assert_eq!(phone.inbox(), [] as [Vec<u8>; 0], "nothing came that was for others");
    lab.until_told("open", |told| {
        told.values().filter(|it| it.state() == ConnectionState::Open).count() == 2
    })
    .await;
    lab.until_told("facts", |told| {
        let phone = &told[&PHONE.id];
        phone.cipher() == Cipher::Chacha20Poly1305
            && phone.address == [198, 51, 100, 2]
            && phone.received_packets > 0
            && phone.last_handshake_unix_ms > 0
    })
    .await;
    let counters = lab.counters(PHONE).await;
    let verdict = |name: &str| counters.verdicts.get(name).copied().unwrap_or(0);
    let ends = ["same_host", "direct", "device", "sealed", "replicated", "absorbed", "held"];
    let out: u64 =
        ends.iter().map(|name| verdict(name)).sum::<u64>() + counters.drops.values().sum::<u64>();
    assert_eq!(counters.received_packets + verdict("resent"), out, "{counters:?}");
    assert!(counters.received_packets >= 4 && counters.sent_packets >= 4, "{counters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_a_client_tells_its_key_and_keeps_its_secret() {
    let Some(mut lab) = Lab::start().await else { return };
    let told = lab.port(PHONE).await;
    assert_eq!(
        (told.ifindex, told.lost, &told.host_device[..]),
        (CLIENT_BIT | PHONE.id, false, "")
    );
    let Some(port::Attachment::Wireguard(client)) = told.attachment else { panic!("no client") };
    assert_eq!(client.public_key, public_key(PHONE_KEY));
    assert!(client.preshared_key.is_empty());
    let file = lab.world.folder.join("alpha/state/ports.binpb");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "it has the preshared key");
    assert!(!lab.alpha.log().contains("77, 77, 77"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_may_not_send_is_dropped_and_counted() {
    let Some(mut lab) = Lab::start().await else { return };
    let phone = lab.phone();
    phone.ping(&WEB.ipv4(), 1);
    let before = lab.counters(WEB).await.sent_packets;
    for _ in 0..3 {
        phone.send(&echo(address(LAPTOP), address(WEB), 8, 2, 56));
    }
    // A Geneve header with the network's VNI and an Ethernet frame, as hosts send them.
    let frame = [&[0, 0, 0x65, 0x58, 0xab, 0xcd, 0xef, 0][..], &[2; 60]].concat();
    for _ in 0..3 {
        phone.send(&frame);
    }
    phone.send(&echo(address(PHONE), Ipv4Addr::new(10, 20, 0, 200), 8, 3, 56));
    phone.ping(&WEB.ipv4(), 4);
    let counters = lab.counters(PHONE).await;
    assert_eq!(counters.drops.get("source_ip4"), Some(&3), "{counters:?}");
    assert_eq!(counters.drops.get("neighbour_unknown"), Some(&1), "{counters:?}");
    assert_eq!(counters.received_packets, 6, "Geneve does not even reach the port: {counters:?}");
    assert_eq!(lab.counters(WEB).await.sent_packets, before + 1, "of all that one request arrived");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_packet_over_the_mtu_is_answered_with_the_mtu() {
    let Some(lab) = Lab::start().await else { return };
    let phone = lab.phone();
    phone.ping(&API.ipv4(), 1);
    let bytes = usize::try_from(MTU_BYTES).unwrap() - 28;
    phone.send(&echo(address(PHONE), address(API), 8, 2, bytes + 1));
    let error = phone.until("an error", |packet| packet[20..22] == [3, 4]);
    assert_eq!(error[26..28], u16::try_from(MTU_BYTES).unwrap().to_be_bytes());
    assert_eq!(error[12..16], [10, 20, 0, 1], "it is from the network's gateway");
    phone.send(&echo(address(PHONE), address(API), 8, 3, bytes));
    phone.until("an answer", |packet| packet[20] == 0 && packet[26..28] == [0, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_roams_is_followed_and_a_restart_finds_it_where_it_was() {
    let Some(mut lab) = Lab::start().await else { return };
    let phone = lab.phone();
    phone.ping(&WEB.ipv4(), 1);
    phone.roam(udp_inside(&lab.world.path("outside"), "198.51.100.3:0"));
    phone.ping(&WEB.ipv4(), 2);
    lab.expect_reached(WEB, PHONE);
    let is_there =
        |told: &BTreeMap<u32, OpenConnection>| told[&PHONE.id].address == [198, 51, 100, 3];
    lab.until_told("the new place", is_there).await;
    lab.restart_alpha().await;
    // The client says nothing by itself until then.
    lab.expect_reached(WEB, PHONE);
    lab.expect_reached(API, PHONE);
    assert!(!lab.attach(attachment(&lab.world, PHONE, &PHONE_KEY, Some(PHONE_PSK))).await.unwrap());
    phone.ping(&API.ipv4(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_detached_is_cut_off_and_its_key_is_answered_no_more() {
    let Some(mut lab) = Lab::start().await else { return };
    let (phone, laptop) = (lab.phone(), lab.laptop());
    phone.ping(&WEB.ipv4(), 1);
    laptop.ping(&WEB.ipv4(), 1);
    lab.until_told("both", |told| told.len() == 2).await;
    let before = lab.counters(WEB).await.sent_packets;
    lab.detach(PHONE).await;
    let heard = phone.datagrams();
    phone.send(&echo(address(PHONE), address(WEB), 8, 2, 56));
    let again = lab.phone();
    again.send(&echo(address(PHONE), address(WEB), 8, 3, 56));
    // Behind what the others sent.
    laptop.ping(&WEB.ipv4(), 2);
    assert_eq!((phone.datagrams(), again.datagrams()), (heard, 0));
    assert_eq!(lab.counters(WEB).await.sent_packets, before + 1);
    lab.until_told("one", |told| told.keys().eq([&LAPTOP.id])).await;
    assert!(lab.attach(attachment(&lab.world, PHONE, &PHONE_KEY, None)).await.unwrap());
    drop((phone, again));
    lab.client(PHONE, PHONE_KEY, None).ping(&WEB.ipv4(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_and_a_client_with_the_wrong_secret_get_no_session() {
    let Some(mut lab) = Lab::start().await else { return };
    let stranger = lab.client(PHONE, [55; 32], Some(PHONE_PSK));
    let guesser = lab.client(PHONE, PHONE_KEY, Some([78; 32]));
    for phone in [&stranger, &guesser] {
        phone.send(&echo(address(PHONE), address(WEB), 8, 1, 56));
    }
    lab.laptop().ping(&WEB.ipv4(), 2);
    assert_eq!(stranger.datagrams(), 0, "nobody answers a key that is no client's");
    assert_eq!(guesser.inbox(), [] as [Vec<u8>; 0]);
    assert_eq!(lab.counters(PHONE).await.received_packets, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_clients_and_never_a_hosts() {
    let Some(mut lab) = Lab::start().await else { return };
    let phone = public_key(PHONE_KEY);
    lab.detach(LAPTOP).await;
    let request = |lab: &Lab, subject, key| with_key(&lab.world, subject, key, None);
    for (subject, key, psk, code, text) in [
        (LAPTOP, phone, None, Code::FailedPrecondition, "that of endpoint 30 already"),
        (LAPTOP, public_key(HOST_KEY), None, Code::FailedPrecondition, "that of this host already"),
        (PHONE, public_key(LAPTOP_KEY), None, Code::FailedPrecondition, "the key is another"),
        (PHONE, phone, Some([1; 32]), Code::FailedPrecondition, "the preshared key is another"),
        (LAPTOP, [0; 32], None, Code::InvalidArgument, "everybody knows"),
        (WEB, public_key(LAPTOP_KEY), None, Code::FailedPrecondition, "already attached"),
    ] {
        let refused = lab.attach(with_key(&lab.world, subject, key, psk)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(refused.message().contains(text), "{refused:?}");
        assert!(refused.metadata().get_bin("weft-error-bin").is_some());
    }
    let web = lab.world.path(WEB.name);
    let request_of_netns = AttachPortRequest {
        attachment: WEB.attachment(&lab.world).attachment,
        ..PHONE.attachment(&lab.world)
    };
    let refused = lab.attach(request_of_netns).await.unwrap_err();
    assert!(refused.message().contains("by a WireGuard client"), "{web}: {refused:?}");

    // Attached before the host was known.
    assert!(lab.attach(request(&lab, LAPTOP, OTHER_HOSTS_PUBLIC_KEY)).await.unwrap());
    lab.until_told("both", |told| told.len() == 2).await;
    let carriers = [Carrier::Sealed, Carrier::Vxlan];
    let tables = tables_by(&lab.alpha, &lab.beta, &ALL, 8, &carriers);
    apply(&mut lab.alpha_client, tables).await.expect("applied");
    lab.until_told("the host's key is the host's", |told| told.keys().eq([&PHONE.id])).await;
    let refused = lab.attach(request(&lab, LAPTOP, OTHER_HOSTS_PUBLIC_KEY)).await.unwrap_err();
    assert!(refused.message().contains("that of host 2 already"), "{refused:?}");
    lab.answerers.pop();
    lab.answerers
        .push(Answerer::start(&lab.alpha_client, &lab.alpha, &ALL, 8, Carrier::Vxlan).await);
    lab.phone().ping(&WEB.ipv4(), 1);
}
