//! Maps, links and tables over the life of a process, in the kernel.
#![allow(missing_docs, reason = "a test")]

mod support;

use std::collections::BTreeSet;

use support::frames::{IP4, UDP, eth, ip4, udp};
use support::host::{Host, LIMITS, run};
use weft_kernel::abi::{Carrier, Carriers, Verdict};
use weft_kernel::testrun::{Input, Runner};
use weft_kernel::{
    Attachment, Datapath, DatapathConfig, Delta, DeviceRole, Endpoint, Error, FlowSpec, FlowTarget,
    Limits, Location, PeerCarrier, PeerPath, PeerSpec, PortSpec, TableError,
};

const VNI: u32 = 5;

fn endpoint(number: u8, location: Location) -> Endpoint {
    Endpoint {
        endpoint_id: u32::from(number),
        vni: VNI,
        mac: [2, 0, 0, 0, 0, number],
        addresses: vec![[10, 20, 0, number].into()],
        allowed_prefixes: vec![],
        location,
        carriers: Carriers::default(),
    }
}

fn world(endpoints: &[&Endpoint]) -> Delta {
    let mut world = Delta::default();
    for endpoint in endpoints {
        world.put_endpoint(endpoint);
    }
    world
}

fn flow(source: &Endpoint, target: &Endpoint) -> FlowSpec {
    FlowSpec {
        source_endpoint_id: source.endpoint_id,
        target_mac: target.mac,
        target_endpoint_id: target.endpoint_id,
        target: FlowTarget::To(target.location),
    }
}

fn flow_targets(datapath: &Datapath) -> BTreeSet<u32> {
    datapath.flows().unwrap().into_iter().map(|(_, flow)| flow.target_endpoint_id).collect()
}

/// Sends a datagram at a port and gives the verdict.
fn send(datapath: &Datapath, source: &Endpoint, target: &Endpoint) -> Option<Verdict> {
    let (Location::Peer { ifindex } | Location::Device { ifindex }) = source.location else {
        panic!("{source:?} has no port here");
    };
    let address = |endpoint: &Endpoint| [10, 20, 0, endpoint.mac[5]].into();
    let packet = ip4(address(source), address(target), UDP, &udp(1, 2, &[0; 32]));
    let packet = eth(source.mac, target.mac, IP4, &packet);
    let runner = Runner::new(datapath, &LIMITS).unwrap();
    datapath.beat();
    runner.run(None, &Input { packet, ifindex, ..Input::default() }).unwrap().verdict()
}

#[test]
fn a_new_process_goes_on_with_the_flows_of_the_old_one() {
    let Some(host) = Host::new("restart") else { return };
    let web = endpoint(1, Location::Peer { ifindex: host.veth("web") });
    let db = endpoint(2, Location::Peer { ifindex: host.veth("db") });
    let mut datapath = host.open();
    assert!(!datapath.is_adopted());
    let instance = datapath.instance();
    datapath.attach_port(&PortSpec::new(&web, 1320)).unwrap();
    datapath.replace_world(&world(&[&web, &db])).unwrap();
    datapath.put_flows(&[flow(&web, &db)]).unwrap();
    assert_eq!(send(&datapath, &web, &db), Some(Verdict::SameHost));
    drop(datapath);

    let mut datapath = host.open();
    assert!(datapath.is_adopted());
    assert_eq!(datapath.instance(), instance);
    assert_eq!(send(&datapath, &web, &db), Some(Verdict::SameHost));
    assert_eq!(datapath.counters(web.endpoint_id).unwrap().unwrap().received_packets, 2);
    datapath.replace_world(&world(&[&web, &db])).unwrap();
    assert_eq!(send(&datapath, &web, &db), Some(Verdict::SameHost));
}

#[test]
fn replacing_the_tables_removes_the_flows_of_endpoints_that_moved_or_went() {
    let Some(host) = Host::new("replace") else { return };
    let ifindex = host.veth("web");
    let web = endpoint(1, Location::Peer { ifindex });
    let stays = endpoint(2, Location::Host { host_id: 7 });
    let moves = endpoint(3, Location::Host { host_id: 7 });
    let goes = endpoint(4, Location::Host { host_id: 7 });
    let elsewhere = Endpoint { location: Location::Host { host_id: 8 }, ..moves.clone() };
    let mut datapath = host.open();
    datapath.replace_world(&world(&[&web, &stays, &moves, &goes])).unwrap();
    datapath.put_flows(&[flow(&web, &stays), flow(&web, &moves), flow(&web, &goes)]).unwrap();

    datapath.replace_world(&world(&[&web, &stays, &elsewhere])).unwrap();
    assert_eq!(flow_targets(&datapath), BTreeSet::from([stays.endpoint_id]));
}

#[test]
fn a_change_is_seen_whole_and_again_after_the_next_one() {
    let Some(host) = Host::new("change") else { return };
    let web = endpoint(1, Location::Peer { ifindex: host.veth("web") });
    let first = endpoint(2, Location::Host { host_id: 7 });
    let second = endpoint(3, Location::Host { host_id: 7 });
    let mut datapath = host.open();
    datapath.attach_port(&PortSpec::new(&web, 1320)).unwrap();
    datapath.replace_world(&world(&[&web])).unwrap();
    assert_eq!(send(&datapath, &web, &first), Some(Verdict::Dropped));

    datapath.apply_world(&world(&[&first])).unwrap();
    assert_eq!(send(&datapath, &web, &first), Some(Verdict::Held));
    assert_eq!(send(&datapath, &web, &second), Some(Verdict::Dropped));

    let mut delta = world(&[&second]);
    delta.remove_endpoint(&first);
    datapath.put_flows(&[flow(&web, &first)]).unwrap();
    datapath.apply_world(&delta).unwrap();
    assert_eq!(flow_targets(&datapath), BTreeSet::new());
    assert_eq!(send(&datapath, &web, &first), Some(Verdict::Dropped));
    assert_eq!(send(&datapath, &web, &second), Some(Verdict::Held));

    datapath.apply_world(&Delta::default()).unwrap();
    assert_eq!(send(&datapath, &web, &first), Some(Verdict::Dropped));
    assert_eq!(send(&datapath, &web, &second), Some(Verdict::Held));
}

#[test]
fn a_change_is_refused_until_the_tables_were_replaced_once() {
    let Some(host) = Host::new("step") else { return };
    let mut datapath = host.open();
    assert!(matches!(datapath.apply_world(&Delta::default()), Err(Error::NotInStep)));
    datapath.replace_world(&Delta::default()).unwrap();
    datapath.apply_world(&Delta::default()).unwrap();
}

#[test]
fn a_change_that_does_not_fit_leaves_the_tables_in_force_as_they_are() {
    let Some(host) = Host::new("full") else { return };
    let web = endpoint(1, Location::Peer { ifindex: host.veth("web") });
    let mut datapath = host.open();
    datapath.attach_port(&PortSpec::new(&web, 1320)).unwrap();
    let known = endpoint(2, Location::Host { host_id: 7 });
    datapath.replace_world(&world(&[&web, &known])).unwrap();
    let many: Vec<_> =
        (3..=200).map(|number| endpoint(number, Location::Host { host_id: 7 })).collect();
    let error = datapath.apply_world(&world(&many.iter().collect::<Vec<_>>())).unwrap_err();
    assert!(matches!(error, Error::Table(TableError::Full { map: "fdb" | "neigh" })), "{error}");
    assert_eq!(send(&datapath, &web, &known), Some(Verdict::Held));
    assert_eq!(send(&datapath, &web, &many[0]), Some(Verdict::Dropped));
    assert!(matches!(datapath.apply_world(&Delta::default()), Err(Error::NotInStep)));
    datapath.replace_world(&world(&[&web, &many[0]])).unwrap();
    assert_eq!(send(&datapath, &web, &many[0]), Some(Verdict::Held));
}

#[test]
fn a_network_of_too_many_members_is_refused() {
    let members: Vec<_> = (1..=200).collect();
    let error = Delta::default().put_network(VNI, &members, &members, &members).unwrap_err();
    assert!(matches!(error, Error::TooManyTargets { vni: VNI, count: 600 }), "{error}");
}

#[test]
fn pins_of_other_sizes_are_refused_and_stay() {
    let Some(host) = Host::new("pins") else { return };
    drop(host.open());
    let config = DatapathConfig { limits: Limits { flows: 512, ..LIMITS }, ..host.config() };
    let error = Datapath::open(&config).unwrap_err();
    let Error::PinMismatch { path, found, expected } = error else { panic!("{error}") };
    assert_eq!(path, host.pin_dir().join("v2/maps/flows"));
    assert!(found.contains("256 rows") && expected.contains("512 rows"), "{found}, {expected}");
    assert!(host.open().is_adopted());
}

#[test]
fn a_folder_that_is_no_bpffs_is_refused() {
    let Some(host) = Host::new("folder") else { return };
    let pin_dir = std::env::temp_dir().join(format!("weft-no-bpffs-{}", std::process::id()));
    let error = Datapath::open(&DatapathConfig { pin_dir: pin_dir.clone(), ..host.config() });
    std::fs::remove_dir_all(&pin_dir).unwrap();
    assert!(error.unwrap_err().to_string().contains("it is not in a bpffs"));
}

#[test]
fn a_device_that_is_not_there_is_refused() {
    let Some(host) = Host::new("device") else { return };
    let error = host.open().attach_device(DeviceRole::Underlay, 4_711).unwrap_err();
    assert!(matches!(error, Error::NoDevice { ifindex: 4_711 }), "{error}");
}

#[test]
fn a_device_that_was_made_anew_under_the_same_index_is_attached_anew() {
    let Some(host) = Host::new("anew") else { return };
    let ifindex = host.veth("web");
    let web = endpoint(1, Location::Peer { ifindex });
    let mut datapath = host.open();
    datapath.attach_port(&PortSpec::new(&web, 1320)).unwrap();
    run("ip link del web");
    run(&format!("ip link add web index {ifindex} type veth peer name web-other"));
    datapath.attach_port(&PortSpec::new(&web, 1320)).unwrap();
    drop(datapath);
    let attached = Attachment { program: "ep_in".into(), ifindex };
    assert_eq!(host.open().attachments().unwrap(), [attached]);
}

#[test]
fn links_to_devices_that_are_gone_do_not_outlive_a_start() {
    let Some(host) = Host::new("gone") else { return };
    let ifindex = host.veth("under");
    host.open().attach_device(DeviceRole::Underlay, ifindex).unwrap();
    run("ip link del under");
    assert_eq!(host.open().attachments().unwrap(), []);
}

#[test]
fn what_is_not_retained_ends() {
    let Some(host) = Host::new("retain") else { return };
    let (kept, ended) = (host.veth("kept"), host.veth("ended"));
    let (old, new) = (host.veth("old"), host.veth("new"));
    let mut datapath = host.open();
    for (number, ifindex) in [(1, kept), (2, ended)] {
        let endpoint = endpoint(number, Location::Peer { ifindex });
        datapath.attach_port(&PortSpec::new(&endpoint, 1320)).unwrap();
    }
    datapath.attach_device(DeviceRole::Underlay, old).unwrap();
    datapath.attach_device(DeviceRole::Underlay, new).unwrap();
    datapath
        .retain(&BTreeSet::from([kept]), &BTreeSet::from([(DeviceRole::Underlay, new)]))
        .unwrap();
    let attachment = |program: &str, ifindex| Attachment { program: program.to_owned(), ifindex };
    assert_eq!(
        datapath.attachments().unwrap(),
        [attachment("ep_in", kept), attachment("ul_in", new)]
    );
    assert_eq!(datapath.ports().unwrap().into_keys().collect::<Vec<_>>(), [kept]);
    assert!(!datapath.detach_port(ended).unwrap(), "a port ends once");
}

fn peer(remote: &str) -> PeerSpec {
    let carrier = PeerCarrier::Vxlan {
        local: "10.0.0.1".parse().unwrap(),
        remote: remote.parse().unwrap(),
        foreign: false,
        path: PeerPath::Device,
    };
    PeerSpec { host_id: 2, mtu: 1450, carrier }
}

#[test]
fn a_host_has_each_carrier_by_itself_and_a_sealed_one_has_no_address() {
    let Some(host) = Host::new("carriers") else { return };
    let mut datapath = host.open();
    let sealed = PeerSpec { host_id: 2, mtu: 1362, carrier: PeerCarrier::Sealed };
    datapath.put_peer(&sealed).unwrap();
    assert_eq!(datapath.underlay_addresses().unwrap(), BTreeSet::new());
    datapath.put_peer(&peer("10.0.0.2")).unwrap();
    datapath.put_peer(&PeerSpec { mtu: 1300, ..sealed }).unwrap();
    assert_eq!(datapath.peers().unwrap(), BTreeSet::from(Carrier::ALL.map(|carrier| (2, carrier))));
    datapath.remove_peer(2, Carrier::Sealed).unwrap();
    assert_eq!(datapath.peers().unwrap(), BTreeSet::from([(2, Carrier::Vxlan)]));
    assert_eq!(datapath.underlay_addresses().unwrap().len(), 1);
    datapath.put_peer(&sealed).unwrap();
    datapath.remove_peer(2, Carrier::Vxlan).unwrap();
    assert_eq!(datapath.peers().unwrap(), BTreeSet::from([(2, Carrier::Sealed)]));
    assert_eq!(datapath.underlay_addresses().unwrap(), BTreeSet::new());
}

#[test]
fn what_another_version_pinned_goes_when_this_one_is_complete() {
    let Some(host) = Host::new("version") else { return };
    let ifindex = host.veth("under");
    host.open().attach_device(DeviceRole::Underlay, ifindex).unwrap();
    let (old, new) = (host.pin_dir().join("v1"), host.pin_dir().join("v2"));
    std::fs::rename(&new, &old).unwrap();

    let mut datapath = host.open();
    assert!(!datapath.is_adopted());
    datapath.attach_device(DeviceRole::Underlay, ifindex).unwrap();
    assert!(old.join("links").read_dir().unwrap().next().is_some(), "it is in charge until then");
    datapath.remove_other_versions().unwrap();
    assert!(!old.exists());
    datapath.remove_other_versions().unwrap();
    assert_eq!(datapath.attachments().unwrap().len(), 1);
}

#[test]
fn a_host_that_changes_its_address_is_not_known_by_the_old_one() {
    let Some(host) = Host::new("peers") else { return };
    let mut datapath = host.open();
    datapath.put_peer(&peer("10.0.0.2")).unwrap();
    datapath.put_peer(&peer("10.0.0.3")).unwrap();
    // Another host takes the address over, and its row survives the removal of the first.
    datapath.put_peer(&PeerSpec { host_id: 3, ..peer("10.0.0.3") }).unwrap();
    datapath.remove_peer(2, Carrier::Vxlan).unwrap();
    assert_eq!(datapath.peers().unwrap(), BTreeSet::from([(3, Carrier::Vxlan)]));
    assert_eq!(
        datapath.underlay_addresses().unwrap(),
        BTreeSet::from(["10.0.0.3".parse().unwrap()])
    );
}

#[test]
fn this_machine_has_what_is_required() {
    let Some(host) = Host::new("features") else { return };
    drop(host.open());
    let missing: Vec<_> = weft_kernel::features(&host.pin_dir(), "/dev/net/tun".as_ref())
        .into_iter()
        .filter(|feature| feature.is_required && !feature.is_present)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
