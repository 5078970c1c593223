//! Two hosts with real shuttles under users of their own, driven over gRPC as a forwarder does.
//! Needs root; skipped with the reason otherwise.

mod support;

use std::process::Output;

use support::{
    Answerer, AttachPortRequest, Carrier, Client, DetachPortRequest, GetInfoRequest, Host,
    ListFlowsRequest, ListPortsRequest, MTU_BYTES, NetnsAttachment, PingRequest,
    SHUTTLE_CAPABILITIES, Subject, TapAttachment, World, address, apply,
    attach_port_request::Attachment,
    ping_response::Outcome,
    received, run,
    seal_tap::{self, Cable, Crossed},
    sealed_tables, skip_reason, tables, tables_by,
};
use tonic::Code;

const WEB: Subject = Subject { name: "web", id: 11, host_id: 1 };
const DB: Subject = Subject { name: "db", id: 12, host_id: 1 };
const API: Subject = Subject { name: "api", id: 13, host_id: 2 };
const ALL: [Subject; 3] = [WEB, DB, API];

/// Both hosts with all endpoints attached, in step and answered for.
struct Lab {
    world: World,
    alpha: Host,
    beta: Host,
    alpha_client: Client,
    beta_client: Client,
    alpha_pid: u32,
    beta_pid: u32,
    answerers: Vec<Answerer>,
}

impl Lab {
    async fn start() -> Option<Self> {
        Self::start_by(Carrier::Vxlan).await
    }

    /// The hosts have the network by this carrier.
    async fn start_by(carrier: Carrier) -> Option<Self> {
        if let Some(reason) = skip_reason() {
            eprintln!("skipped: {reason}");
            return None;
        }
        let mut world = World::new();
        let [alpha, beta] = world.add_hosts();
        for subject in ALL {
            world.add_namespace(subject.name);
        }
        world.start_helper(&alpha);
        world.start_helper(&beta);
        let (alpha_pid, mut alpha_client) = world.start_shuttle(&alpha).await;
        let (beta_pid, mut beta_client) = world.start_shuttle(&beta).await;
        for subject in ALL {
            let client =
                if subject.host_id == alpha.id { &mut alpha_client } else { &mut beta_client };
            let attached = client
                .attach_port(subject.attachment(&world))
                .await
                .expect("attached")
                .into_inner();
            assert!(attached.created);
        }
        for (client, host, other) in
            [(&mut alpha_client, &alpha, &beta), (&mut beta_client, &beta, &alpha)]
        {
            apply(client, tables_by(host, other, &ALL, 7, &[carrier])).await.expect("applied");
        }
        let answerers = vec![
            Answerer::start(&alpha_client, &alpha, &ALL, 7, carrier).await,
            Answerer::start(&beta_client, &beta, &ALL, 7, carrier).await,
        ];
        Some(Self { world, alpha, beta, alpha_client, beta_client, alpha_pid, beta_pid, answerers })
    }

    async fn ping(&self, from: Subject, target: &str, count: u32) -> Output {
        let child = self
            .world
            .spawn_inside(from.name, &format!("ping -n -c {count} -i 0.01 -W 5 {target}"));
        tokio::task::spawn_blocking(|| child.wait_with_output().expect("ping ends"))
            .await
            .expect("no panic")
    }

    async fn expect_all(&self, from: Subject, target: &str, count: u32) {
        let output = self.ping(from, target, count).await;
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(received(&output), count, "{text}\n{}\n{}", self.alpha.log(), self.beta.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_reach_each_other_and_no_first_packet_is_lost() {
    let Some(lab) = Lab::start().await else { return };
    for (from, to) in [(WEB, DB), (DB, WEB), (WEB, API), (API, DB)] {
        lab.expect_all(from, &to.ipv4(), 3).await;
        lab.expect_all(from, &to.ipv6(), 3).await;
    }
    let asked = lab.answerers[0].misses.lock().unwrap().len();
    assert_eq!(asked, 4, "each pair of alpha's endpoints and their targets is asked for once");
    let mut client = lab.alpha_client.clone();
    let flows = client.list_flows(ListFlowsRequest {}).await.unwrap().into_inner().flows;
    assert_eq!(flows.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_over_the_mtu_is_answered_with_the_mtu() {
    let Some(lab) = Lab::start().await else { return };
    lab.world.inside(WEB.name, "ip link set eth0 mtu 1500");
    let target = API.ipv4();
    let child = lab
        .world
        .spawn_inside(WEB.name, &format!("ping -n -c 2 -i 0.2 -W 1 -M do -s 1400 {target}"));
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&format!("mtu = {MTU_BYTES}")), "{text}");
    let child = lab
        .world
        .spawn_inside(WEB.name, &format!("ping -n -c 2 -i 0.2 -W 1 -M do -s 1400 {}", API.ipv6()));
    let text = String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned();
    assert!(
        text.contains(&format!("mtu={MTU_BYTES}")) || text.contains(&format!("mtu = {MTU_BYTES}")),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_flow_while_the_shuttle_is_killed_and_replaced() {
    let Some(mut lab) = Lab::start().await else { return };
    lab.expect_all(WEB, &API.ipv4(), 2).await;
    lab.expect_all(DB, &WEB.ipv4(), 2).await;
    let before = lab.alpha_client.get_info(GetInfoRequest {}).await.unwrap().into_inner();
    let between = lab
        .world
        .spawn_inside(WEB.name, &format!("ping -n -q -c 1500 -i 0.002 -W 5 {}", API.ipv4()));
    let inside = lab
        .world
        .spawn_inside(DB.name, &format!("ping -n -q -c 1500 -i 0.002 -W 5 {}", WEB.ipv4()));
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    lab.world.kill(lab.alpha_pid, libc::SIGKILL);
    let (_, mut client) = lab.world.start_shuttle(&lab.alpha).await;
    let after = client.get_info(GetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(after.instance_id, before.instance_id);
    assert_eq!(after.table_revision, 0, "the tables must be sent again");
    apply(&mut client, tables(&lab.alpha, &lab.beta, &ALL, 8)).await.expect("applied");
    for (child, what) in [(between, "between hosts"), (inside, "inside the host")] {
        let output =
            tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
        assert_eq!(received(&output), 1500, "{what}");
    }
    let flows = client.list_flows(ListFlowsRequest {}).await.unwrap().into_inner().flows;
    assert_eq!(flows.len(), 3, "web to api, db to web and back are kept");
    let ports = client.list_ports(ListPortsRequest {}).await.unwrap().into_inner().ports;
    assert_eq!(
        ports.iter().map(|port| (port.endpoint_id, port.lost)).collect::<Vec<_>>(),
        [(11, false), (12, false)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_nobody_answers_for_are_dropped_by_name_and_every_one_is_accounted_for() {
    let Some(mut lab) = Lab::start().await else { return };
    lab.answerers.clear();
    let output = lab.ping(WEB, &API.ipv4(), 3).await;
    assert_eq!(received(&output), 0);
    let ports = lab.alpha_client.list_ports(ListPortsRequest {}).await.unwrap().into_inner().ports;
    let counters = ports
        .iter()
        .find(|port| port.endpoint_id == WEB.id)
        .and_then(|port| port.counters.clone())
        .unwrap();
    assert_eq!(counters.drops.get("unresolved"), Some(&3), "{counters:?}");
    let verdict = |name: &str| counters.verdicts.get(name).copied().unwrap_or(0);
    let ends =
        ["same_host", "direct", "device", "sealed", "replicated", "answered", "absorbed", "held"];
    let out: u64 =
        ends.iter().map(|name| verdict(name)).sum::<u64>() + counters.drops.values().sum::<u64>();
    assert_eq!(counters.received_packets + verdict("resent"), out, "{counters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_goes_when_its_target_does() {
    let Some(mut lab) = Lab::start().await else { return };
    lab.expect_all(WEB, &API.ipv4(), 2).await;
    lab.expect_all(WEB, &DB.ipv4(), 2).await;
    apply(&mut lab.alpha_client, tables(&lab.alpha, &lab.beta, &[WEB, DB], 9))
        .await
        .expect("applied");
    let flows = lab.alpha_client.list_flows(ListFlowsRequest {}).await.unwrap().into_inner().flows;
    let targets: Vec<u32> = flows
        .iter()
        .filter_map(|flow| flow.flow.as_ref())
        .map(|flow| flow.target_endpoint_id)
        .collect();
    assert!(!targets.contains(&API.id), "{targets:?}");
    assert_eq!(targets.len(), 2, "the flows between web and db are untouched");
    let stale = tables(&lab.alpha, &lab.beta, &ALL, 9);
    let refused = apply(
        &mut lab.alpha_client,
        vec![support::ApplyTablesRequest { base_revision: 3, ..stale[0].clone() }],
    )
    .await;
    assert_eq!(refused.unwrap_err().code(), Code::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_whose_namespace_is_gone_is_lost_until_it_is_detached() {
    let Some(mut lab) = Lab::start().await else { return };
    lab.world.remove_namespace(DB.name);
    lab.alpha
        .until("the loss is noticed", || lab.alpha.log().contains("the device of a port is gone"));
    let ports = lab.alpha_client.list_ports(ListPortsRequest {}).await.unwrap().into_inner().ports;
    assert_eq!(
        ports.iter().map(|port| (port.endpoint_id, port.lost)).collect::<Vec<_>>(),
        [(11, false), (12, true)]
    );
    let request = DetachPortRequest { endpoint_id: DB.id };
    assert!(lab.alpha_client.detach_port(request).await.unwrap().into_inner().detached);
    assert!(!lab.alpha_client.detach_port(request).await.unwrap().into_inner().detached);
    lab.expect_all(WEB, &API.ipv4(), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_attached_is_refused_and_leaves_nothing() {
    let Some(mut lab) = Lab::start().await else { return };
    let links =
        || String::from_utf8_lossy(&lab.world.inside("alpha", "ip -o link").stdout).lines().count();
    let before = links();
    let netns = |path: &str, device: &str| {
        Some(Attachment::Netns(NetnsAttachment {
            path: path.to_owned(),
            device: device.to_owned(),
            keep_routes: false,
        }))
    };
    let new = Subject { name: "new", id: 20, host_id: 1 };
    let web = lab.world.path(WEB.name);
    let host = lab.world.path("alpha");
    let cases = [
        (new, netns("/run/netns/weft-no-such", ""), Code::NotFound),
        (new, netns("/dev/null", ""), Code::NotFound),
        (new, netns("/proc/self/ns/uts", ""), Code::NotFound),
        (new, netns(&host, ""), Code::NotFound),
        (new, netns(&web, ""), Code::FailedPrecondition),
        (new, netns(&web, "a-name-that-is-too-long"), Code::InvalidArgument),
        (new, Some(Attachment::Tap(TapAttachment { device: "notap".to_owned() })), Code::NotFound),
        (
            new,
            Some(Attachment::Tap(TapAttachment { device: "wl-seal".to_owned() })),
            Code::NotFound,
        ),
        (new, None, Code::InvalidArgument),
        (WEB, netns(&web, "eth1"), Code::FailedPrecondition),
    ];
    for (subject, attachment, code) in cases {
        let request =
            AttachPortRequest { attachment: attachment.clone(), ..subject.attachment(&lab.world) };
        let refused = lab.alpha_client.attach_port(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{attachment:?}: {refused:?}");
        assert!(refused.metadata().get_bin("weft-error-bin").is_some());
    }
    assert_eq!(links(), before);
    let repeated =
        lab.alpha_client.attach_port(WEB.attachment(&lab.world)).await.unwrap().into_inner();
    assert!(!repeated.created);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_from_inside_a_port_tells_the_round_trip_of_each_request() {
    let Some(mut lab) = Lab::start().await else { return };
    for target in [API.ipv4(), API.ipv6()] {
        let request = PingRequest {
            source_endpoint_id: WEB.id,
            target_address: address(&target),
            count: 5,
            interval_ms: 5,
            timeout_ms: 2000,
            payload_bytes: 56,
        };
        let mut answers = lab.alpha_client.ping(request).await.unwrap().into_inner();
        let mut sequences = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            assert!(matches!(answer.outcome, Some(Outcome::RttNs(1..))), "{answer:?}");
            sequences.push(answer.sequence);
        }
        assert_eq!(sequences, [0, 1, 2, 3, 4]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_no_byte_from_shuttle_or_helper() {
    let Some(lab) = Lab::start().await else { return };
    let stranger = weft_netns::Client::new(lab.alpha.helper_socket());
    let refused = stranger.open_namespace(lab.world.path(WEB.name).as_ref());
    assert!(matches!(refused, Err(weft_netns::Error::Unreachable { .. })), "{refused:?}");

    let socket = lab.alpha.shuttle_socket();
    let bytes = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        // SAFETY: the raw call changes the user of this thread alone.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 12_345, 12_345, 12_345) }, 0);
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        // The other end may be closed already.
        let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        stream.read(&mut [0; 64]).unwrap_or(0)
    });
    assert_eq!(bytes.join().unwrap(), 0);
}

/// How long the frames of one direction were, in steps of 8 KiB.
fn print_histogram(lengths: &[usize]) {
    for step in 0..=8 {
        let count = lengths.iter().filter(|length| *length >> 13 == step).count();
        println!("{:>2}..{:>2} KiB: {count}", step * 8, step * 8 + 8);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_a_sealed_network_reach_the_tap_whole_and_come_back_as_they_were() {
    let Some(mut lab) = Lab::start_by(Carrier::Sealed).await else { return };
    // Nothing carries them yet, but flows come about.
    for (from, to) in [(WEB, API), (API, WEB)] {
        let words = format!("ping -n -c 1 -W 1 {}", to.ipv4());
        lab.world.spawn_inside(from.name, &words).wait_with_output().unwrap();
    }
    lab.answerers.clear();
    lab.world.kill(lab.alpha_pid, libc::SIGTERM);
    lab.world.kill(lab.beta_pid, libc::SIGTERM);

    let cable = Cable::plug(&lab.world, [&lab.alpha, &lab.beta]);
    let (web, api) = (lab.world.path(WEB.name), lab.world.path(API.name));
    for (from, to) in [(WEB.ipv4(), API.ipv4()), (WEB.ipv6(), API.ipv6())] {
        cable.take_crossed();
        seal_tap::send_stream((&web, &from), (&api, &to), 96 << 20);
        let mut lengths: Vec<usize> =
            cable.take_crossed().iter().map(|crossed| crossed.bytes).collect();
        print_histogram(&lengths);
        lengths.sort_unstable();
        let median = lengths[lengths.len() / 2];
        println!("{from}: {} frames, median {median} bytes", lengths.len());
        assert!(median >= 30 << 10, "super-packets arrive in pieces: median {median}");

        seal_tap::send_datagrams((&web, &from), (&api, &to), 40, 1200);
        let datagrams: Vec<Crossed> =
            cable.take_crossed().into_iter().filter(Crossed::is_udp_super_packet).collect();
        assert_eq!(datagrams.len(), 1, "{datagrams:?}");
        assert!(datagrams[0].bytes > 40 * 1200);
    }
    seal_tap::send_broadcast((&web, &WEB.ipv4()), (&api, "10.20.255.255"));
    seal_tap::send_raw((&web, WEB.mac()), (&api, API.mac()));
    assert_eq!(cable.unplug(), 0, "frames of another network or to another host");

    let (_, mut client) = lab.world.start_shuttle(&lab.alpha).await;
    apply(&mut client, sealed_tables(&lab.alpha, &lab.beta, &ALL, 8)).await.expect("applied");
    let flows = client.list_flows(ListFlowsRequest {}).await.unwrap().into_inner().flows;
    let kept: Vec<_> = flows.into_iter().filter_map(|state| state.flow).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!((kept[0].carrier(), kept[0].target_host_id), (Carrier::Sealed, lab.beta.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_has_become_sealed_is_taken_in_the_clear_no_more() {
    let Some(mut lab) = Lab::start().await else { return };
    lab.expect_all(WEB, &API.ipv4(), 2).await;
    for (revision, carriers, reason) in [
        (8, &[Carrier::Vxlan, Carrier::Sealed][..], "not_sealed"),
        (9, &[Carrier::Sealed][..], "sender_unknown"),
    ] {
        let tables = tables_by(&lab.beta, &lab.alpha, &ALL, revision, carriers);
        apply(&mut lab.beta_client, tables).await.expect("applied");
        let words = format!("ping -n -c 3 -i 0.01 -W 1 {}", API.ipv4());
        let output = lab.world.spawn_inside(WEB.name, &words).wait_with_output().unwrap();
        assert_eq!(received(&output), 0);
        let info = lab.beta_client.get_info(GetInfoRequest {}).await.unwrap().into_inner();
        // Endpoints may have said more of their own.
        assert!(matches!(info.host_drops.get(reason), Some(3..)), "{:?}", info.host_drops);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_shuttle_forwards_on_and_cleaning_up_leaves_nothing() {
    let Some(lab) = Lab::start().await else { return };
    lab.expect_all(WEB, &API.ipv4(), 2).await;
    lab.world.kill(lab.alpha_pid, libc::SIGTERM);
    lab.expect_all(WEB, &API.ipv4(), 2).await;
    lab.world.clean_up(&lab.alpha);
    let links =
        String::from_utf8_lossy(&lab.world.inside("alpha", "ip -o link").stdout).into_owned();
    assert_eq!(links.lines().count(), 2, "lo and ul0 are left: {links}");
    assert_eq!(lab.alpha.pins(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shuttle_whose_kernel_is_always_taken_lives() {
    let Some(mut lab) = Lab::start().await else { return };
    // The clock alone would beat every 500 ms, and not while somebody has the kernel.
    for _ in 0..20 {
        let before = lab.alpha.heartbeat_ns();
        lab.alpha_client.list_ports(ListPortsRequest {}).await.unwrap();
        assert!(lab.alpha.heartbeat_ns() > before, "a call that takes the kernel shows life");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traced_call_leaves_a_span_below_its_callers() {
    let Some(mut lab) = Lab::start().await else { return };
    let mut request = tonic::Request::new(DetachPortRequest { endpoint_id: DB.id });
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    request.metadata_mut().insert("traceparent", context.parse().unwrap());
    lab.alpha_client.detach_port(request).await.unwrap();
    let traces = lab.alpha.traces();
    assert_eq!(traces.lines().count(), 1, "only what is sampled is kept: {traces}");
    for part in ["4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "shuttle detach port"] {
        assert!(traces.contains(part), "{traces}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_is_a_port_while_it_is_there() {
    let Some(mut lab) = Lab::start().await else { return };
    lab.world.inside("alpha", "ip tuntap add tap0 mode tap");
    let guest = Subject { name: "guest", id: 21, host_id: 1 };
    let tap = Some(Attachment::Tap(TapAttachment { device: "tap0".to_owned() }));
    let request = AttachPortRequest { attachment: tap.clone(), ..guest.attachment(&lab.world) };
    assert!(lab.alpha_client.attach_port(request).await.unwrap().into_inner().created);
    let other = Subject { id: 22, ..guest };
    let request = AttachPortRequest { attachment: tap, ..other.attachment(&lab.world) };
    assert_eq!(
        lab.alpha_client.attach_port(request).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    let request = DetachPortRequest { endpoint_id: guest.id };
    assert!(lab.alpha_client.detach_port(request).await.unwrap().into_inner().detached);
    let links = String::from_utf8_lossy(&lab.world.inside("alpha", "ip -o link show tap0").stdout)
        .into_owned();
    assert!(!links.contains("master"), "a TAP is its owner's again: {links}");
}

#[test]
fn a_port_that_another_tunnel_has_is_named_with_the_way_out() {
    if let Some(reason) = skip_reason() {
        eprintln!("skipped: {reason}");
        return;
    }
    let mut world = World::new();
    let [alpha, _] = world.add_hosts();
    world.inside("alpha", "ip link add other type vxlan id 7 dstport 4789");
    world.inside("alpha", "ip link set other up");
    assert_eq!(world.fail_shuttle(&alpha, SHUTTLE_CAPABILITIES), Some(69));
    let log = alpha.log();
    assert!(log.contains("UDP port 4789") && log.contains("--vxlan-port"), "{log}");
}

#[test]
fn a_shuttle_that_lacks_what_it_needs_names_each_thing_and_makes_nothing() {
    if let Some(reason) = skip_reason() {
        eprintln!("skipped: {reason}");
        return;
    }
    let mut world = World::new();
    let [alpha, _] = world.add_hosts();
    assert_eq!(world.fail_shuttle(&alpha, "+net_admin"), Some(69));
    let log = alpha.log();
    for feature in ["bpf: load programs", "tcx: attach classifiers"] {
        assert!(log.contains(feature), "{log}");
    }
    assert!(!log.contains("net-admin: "), "what is there is not named: {log}");
    let links = String::from_utf8_lossy(&world.inside("alpha", "ip -o link").stdout).into_owned();
    assert_eq!(links.lines().count(), 2, "lo and ul0 are all: {links}");
    assert_eq!(alpha.pins(), 0);
}

#[test]
fn wrong_usage_is_told_before_anything_is_opened() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_weft-shuttle"))
        .arg("--vxlan-port")
        .arg("x")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("--vxlan-port") && text.contains("--admit-uid"), "{text}");
    assert!(
        String::from_utf8_lossy(
            &run(&format!("{} --help", env!("CARGO_BIN_EXE_weft-shuttle"))).stdout
        )
        .contains("Usage")
    );
}
