//! The programs in the kernel, on packets of our own: every verdict, every drop reason, every kind of target.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::too_many_lines, reason = "tables of fixtures")]

mod support;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use support::capture::Capture;
use support::frames::{
    ARP, ICMP6, IP4, IP6, Mac, TCP, UDP, VLAN, arp, checksum, eth, icmp6, ip4, ip6, mapped, nd,
    tcp, udp, vxlan,
};
use support::host::{Host, LIMITS, VXLAN_PORT, ifindex, run};
use weft_kernel::abi::{
    Carrier, Carriers, DropReason, Plain, SEAL_MAGIC, SLOW_DROP, SLOW_MAGIC, SLOW_MISS, SLOW_MTU,
    SLOW_NEIGHBOUR, SLOW_RESEND, SLOW_TO_SOURCE, SealMeta, SlowMeta, Verdict, client_number,
};
use weft_kernel::testrun::{Input, Output, Runner};
use weft_kernel::{
    Datapath, Delta, DeviceRole, Endpoint, FlowSpec, FlowTarget, Location, PeerCarrier, PeerPath,
    PeerSpec, PortSpec, Prefix, Rate,
};

const BLUE: u32 = 77;
const RED: u32 = 88;
/// Sealed between all hosts.
const GREEN: u32 = 99;
const MTU: u16 = 1320;
/// Less than the network's: what the client's tunnel takes.
const PHONE_MTU: u16 = 1280;

/// Endpoints of blue: web, db and router have ports here; api, gate and edge are at other hosts; lone has a port with
/// tiny budgets. `twin` is web's MAC and addresses again, in red. `vault` is at a sealed host, `lost` at one with which
/// no carrier is shared for it. Of green, mint has a port here and safe is at another host. `phone` is a `WireGuard`
/// client here, of blue.
const WEB: u32 = 11;
const DB: u32 = 12;
const API: u32 = 13;
const EDGE: u32 = 14;
const ROUTER: u32 = 15;
const GATE: u32 = 16;
const PLAIN: u32 = 17;
const LONE: u32 = 18;
const TWIN: u32 = 21;
const VAULT: u32 = 22;
const LOST: u32 = 23;
const MINT: u32 = 24;
const SAFE: u32 = 25;
const PHONE: u32 = 26;

/// Hosts: one by a header of ours, and sealed for green; one over IPv6 by the device; one that is a plain VXLAN device;
/// one that is sealed for all networks.
const BETA: u32 = 2;
const GAMMA: u32 = 3;
const FOREIGN: u32 = 4;
const DELTA: u32 = 5;
/// Named by a flow, but not written.
const NOWHERE: u32 = 99;

const ALPHA_IP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const BETA_IP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const FOREIGN_IP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 4);
const STRANGER_IP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 9);
const ALPHA_IP6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
const GAMMA_IP6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 3);
const ALPHA_MAC: Mac = [6, 0, 0, 0, 0, 1];
const BETA_MAC: Mac = [6, 0, 0, 0, 0, 2];

const BROADCAST: Mac = [0xff; 6];
const MULTICAST: Mac = [0x33, 0x33, 0, 0, 0, 1];
const NOBODY: Mac = [2, 0, 0, 0, 0, 0xee];
const REFUSED: Mac = [2, 0, 0, 0, 0, 0xe1];
const NO_CARRIER: Mac = [2, 0, 0, 0, 0, 0xe2];
const NO_PEER: Mac = [2, 0, 0, 0, 0, 0xe3];
const NO_SEALED_PEER: Mac = [2, 0, 0, 0, 0, 0xe4];

const TC_ACT_OK: u32 = 0;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

fn mac(endpoint: u32) -> Mac {
    [2, 0, 0, 0, 0, u8::try_from(if endpoint == TWIN { WEB } else { endpoint }).unwrap()]
}

fn v4(endpoint: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 20, 0, mac(endpoint)[5])
}

fn v6(endpoint: u32) -> Ipv6Addr {
    Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, u16::from(mac(endpoint)[5]))
}

/// Where a frame comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Port(u32),
    Underlay,
    /// The VXLAN device, from this sender in this network; VNI 0 is without tunnel information.
    Vxlan(u32, [u8; 16]),
    Slow,
    Seal,
}

/// What must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// This verdict with this target.
    Goes(Verdict, u32),
    Drops(DropReason),
}

struct Fixture {
    words: &'static str,
    at: At,
    frame: Vec<u8>,
    gso_size: u32,
    end: End,
    /// The frame afterwards, where it is rewritten.
    rewritten: Option<Vec<u8>>,
}

impl Fixture {
    fn gso(mut self, size: u32) -> Self {
        self.gso_size = size;
        self
    }

    fn becomes(mut self, frame: Vec<u8>) -> Self {
        self.rewritten = Some(frame);
        self
    }
}

fn fixture(words: &'static str, at: At, frame: Vec<u8>, end: End) -> Fixture {
    Fixture { words, at, frame, gso_size: 0, end, rewritten: None }
}

fn drops(words: &'static str, at: At, frame: Vec<u8>, reason: DropReason) -> Fixture {
    fixture(words, at, frame, End::Drops(reason))
}

fn goes(words: &'static str, at: At, frame: Vec<u8>, verdict: Verdict, target: u32) -> Fixture {
    fixture(words, at, frame, End::Goes(verdict, target))
}

/// Devices of the host under test.
#[derive(Clone, Copy)]
struct Devices {
    web: u32,
    db: u32,
    router: u32,
    lone: u32,
    twin: u32,
    mint: u32,
    underlay: u32,
    vxlan: u32,
    slow: u32,
    seal: u32,
    stray: u32,
}

impl Devices {
    fn make(host: &Host) -> Self {
        run("ip link add weft-vx type vxlan external dstport 4790 nolearning");
        run("ip link set weft-vx up");
        Self {
            web: host.veth("web"),
            db: host.veth("db"),
            router: host.veth("router"),
            lone: host.veth("lone"),
            twin: host.veth("twin"),
            mint: host.veth("mint"),
            underlay: host.veth("under"),
            slow: host.veth("slow"),
            seal: host.veth("seal"),
            stray: host.veth("stray"),
            vxlan: ifindex("weft-vx"),
        }
    }

    fn of(self, endpoint: u32) -> u32 {
        match endpoint {
            WEB => self.web,
            DB => self.db,
            ROUTER => self.router,
            LONE => self.lone,
            TWIN => self.twin,
            MINT => self.mint,
            _ => self.stray,
        }
    }

    fn location(self, endpoint: u32) -> Location {
        match endpoint {
            API | GATE | LOST | SAFE => Location::Host { host_id: BETA },
            VAULT => Location::Host { host_id: DELTA },
            EDGE => Location::Host { host_id: GAMMA },
            PLAIN => Location::Host { host_id: FOREIGN },
            DB => Location::Device { ifindex: self.db },
            PHONE => Location::Client { endpoint_id: PHONE },
            _ => Location::Peer { ifindex: self.of(endpoint) },
        }
    }

    fn endpoint(self, endpoint_id: u32) -> Endpoint {
        let prefix =
            |address: &str, length_bits| Prefix { address: address.parse().unwrap(), length_bits };
        Endpoint {
            endpoint_id,
            vni: match endpoint_id {
                TWIN => RED,
                MINT | SAFE => GREEN,
                _ => BLUE,
            },
            mac: mac(endpoint_id),
            addresses: vec![v4(endpoint_id).into(), v6(endpoint_id).into()],
            allowed_prefixes: match endpoint_id {
                ROUTER => vec![prefix("10.30.0.0", 16), prefix("fd30::", 64)],
                GATE => vec![prefix("10.40.0.0", 16), prefix("fd40::", 64)],
                _ => vec![],
            },
            location: self.location(endpoint_id),
            carriers: match endpoint_id {
                LOST => Carriers::default(),
                VAULT | SAFE => [Carrier::Sealed].into_iter().collect(),
                _ => [Carrier::Vxlan].into_iter().collect(),
            },
        }
    }

    /// Ports, other hosts, tables and flows; not yet the TAP for what is sealed.
    fn fill(self, datapath: &mut Datapath) {
        datapath.attach_device(DeviceRole::Vxlan, self.vxlan).unwrap();
        datapath.attach_device(DeviceRole::Slow, self.slow).unwrap();
        let header = PeerPath::Header {
            ifindex: self.underlay,
            source_mac: ALPHA_MAC,
            target_mac: BETA_MAC,
        };
        let device = PeerPath::Device;
        let vxlan =
            |local, remote, foreign, path| PeerCarrier::Vxlan { local, remote, foreign, path };
        for (host_id, mtu, carrier) in [
            (BETA, 1300, vxlan(ALPHA_IP.into(), BETA_IP.into(), false, header)),
            (BETA, 1310, PeerCarrier::Sealed),
            (GAMMA, 1430, vxlan(ALPHA_IP6.into(), GAMMA_IP6.into(), false, device)),
            (FOREIGN, 1450, vxlan(ALPHA_IP.into(), FOREIGN_IP.into(), true, device)),
            (DELTA, 1290, PeerCarrier::Sealed),
        ] {
            datapath.put_peer(&PeerSpec { host_id, mtu, carrier }).unwrap();
        }
        let mut world = Delta::default();
        for endpoint_id in
            [WEB, DB, API, EDGE, ROUTER, GATE, PLAIN, LONE, TWIN, VAULT, LOST, MINT, SAFE, PHONE]
        {
            let endpoint = self.endpoint(endpoint_id);
            world.put_endpoint(&endpoint);
            if !matches!(endpoint.location, Location::Host { .. }) {
                let mtu = if endpoint_id == PHONE { PHONE_MTU } else { MTU };
                let mut port = PortSpec::new(&endpoint, mtu);
                if endpoint_id == LONE {
                    let once = Rate { per_second: 1, burst: 1 };
                    port.miss_rate = once;
                    port.error_rate = once;
                    port.replicate_rate = once;
                }
                datapath.attach_port(&port).unwrap();
            }
        }
        let ports = [self.web, self.db, self.router, self.lone];
        world.put_network(BLUE, &ports, &[BETA, GAMMA, FOREIGN], &[DELTA]).unwrap();
        world.put_network(RED, &[self.twin], &[], &[]).unwrap();
        world.put_network(GREEN, &[self.mint], &[], &[BETA, DELTA]).unwrap();
        datapath.replace_world(&world).unwrap();
        let flow = |source_endpoint_id, target_mac, target| FlowSpec {
            source_endpoint_id,
            target_mac,
            target_endpoint_id: u32::from(target_mac[5]),
            target,
        };
        let mut flows: Vec<_> = [(WEB, DB), (DB, WEB), (WEB, API), (WEB, EDGE), (ROUTER, WEB)]
            .map(|(source, target)| {
                flow(source, mac(target), FlowTarget::To(self.location(target)))
            })
            .into();
        flows.extend([
            flow(WEB, REFUSED, FlowTarget::Drop(DropReason::Refused)),
            flow(WEB, NO_CARRIER, FlowTarget::Drop(DropReason::NoCarrier)),
            flow(WEB, NO_PEER, FlowTarget::To(Location::Host { host_id: NOWHERE })),
            flow(WEB, NO_SEALED_PEER, FlowTarget::Sealed { host_id: GAMMA }),
            flow(WEB, mac(VAULT), FlowTarget::Sealed { host_id: DELTA }),
            flow(MINT, mac(SAFE), FlowTarget::Sealed { host_id: BETA }),
            flow(PHONE, mac(VAULT), FlowTarget::Sealed { host_id: DELTA }),
        ]);
        flows.extend([(WEB, PHONE), (PHONE, WEB), (PHONE, DB), (PHONE, API)].map(
            |(source, target)| flow(source, mac(target), FlowTarget::To(self.location(target))),
        ));
        datapath.put_flows(&flows).unwrap();
        datapath.beat();
    }
}

/// UDP in IPv4 between two endpoints of blue.
fn datagram(source: u32, target: u32) -> Vec<u8> {
    eth(mac(source), mac(target), IP4, &ip4(v4(source), v4(target), UDP, &udp(1, 2, &[7; 32])))
}

fn datagram6(source: u32, target: u32) -> Vec<u8> {
    eth(mac(source), mac(target), IP6, &ip6(v6(source), v6(target), UDP, &udp(1, 2, &[7; 32])))
}

/// The same to any MAC.
fn datagram_to(source: u32, target: Mac) -> Vec<u8> {
    let address = Ipv4Addr::new(10, 20, 0, target[5]);
    eth(mac(source), target, IP4, &ip4(v4(source), address, UDP, &udp(1, 2, &[7; 32])))
}

fn datagram_from(source_ip: Ipv4Addr, source: u32, target: u32) -> Vec<u8> {
    eth(mac(source), mac(target), IP4, &ip4(source_ip, v4(target), UDP, &udp(1, 2, &[7; 32])))
}

fn datagram6_from(source_ip: Ipv6Addr, source: u32, target: Mac) -> Vec<u8> {
    eth(mac(source), target, IP6, &ip6(source_ip, v6(DB), UDP, &udp(1, 2, &[7; 32])))
}

/// An IPv4 packet of so many bytes.
fn sized(source: u32, target: u32, ip_bytes: usize) -> Vec<u8> {
    let payload = vec![7; ip_bytes - 28];
    eth(mac(source), mac(target), IP4, &ip4(v4(source), v4(target), UDP, &udp(1, 2, &payload)))
}

fn segment(source: u32, target: u32, payload_bytes: usize) -> Vec<u8> {
    let body = tcp(&vec![7; payload_bytes]);
    eth(mac(source), mac(target), IP4, &ip4(v4(source), v4(target), TCP, &body))
}

fn segment6(source: u32, target: u32, payload_bytes: usize) -> Vec<u8> {
    let body = tcp(&vec![7; payload_bytes]);
    eth(mac(source), mac(target), IP6, &ip6(v6(source), v6(target), TCP, &body))
}

fn who_has(source: u32, target: Ipv4Addr) -> Vec<u8> {
    eth(mac(source), BROADCAST, ARP, &arp(1, (mac(source), v4(source)), ([0; 6], target)))
}

fn arp_from(sender: (Mac, Ipv4Addr)) -> Vec<u8> {
    eth(mac(WEB), BROADCAST, ARP, &arp(1, sender, ([0; 6], v4(DB))))
}

fn solicit(source: u32, from: Ipv6Addr, target: Ipv6Addr, option: Option<(u8, Mac)>) -> Vec<u8> {
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    eth(
        mac(source),
        [0x33, 0x33, 0xff, 0, 0, 1],
        IP6,
        &icmp6(from, group, &nd(135, 0, target, option)),
    )
}

fn message6(source: u32, target: Mac, kind: u8) -> Vec<u8> {
    let group = "ff02::1".parse().unwrap();
    eth(mac(source), target, IP6, &icmp6(v6(source), group, &[kind, 0, 0, 0, 0, 0, 0, 0]))
}

fn advertise(source: u32, target: Ipv6Addr, option_mac: Mac) -> Vec<u8> {
    let message = nd(136, 0, target, Some((2, option_mac)));
    eth(mac(source), mac(DB), IP6, &icmp6(v6(source), v6(DB), &message))
}

/// A neighbour message behind `count` hop-by-hop headers.
fn hidden(count: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    for index in 0..count {
        payload.extend([if index + 1 == count { ICMP6 } else { 0 }, 0, 1, 4, 0, 0, 0, 0]);
    }
    payload.extend(nd(136, 0, v6(DB), Some((2, mac(WEB)))));
    eth(mac(WEB), mac(DB), IP6, &ip6(v6(WEB), v6(DB), 0, &payload))
}

/// A frame in VXLAN as it comes in at the underlay.
fn from_host(source: Ipv4Addr, vni: u32, frame: &[u8]) -> Vec<u8> {
    eth(BETA_MAC, ALPHA_MAC, IP4, &vxlan(source, ALPHA_IP, (50_000, VXLAN_PORT), vni, frame))
}

/// Changes a byte, and the IPv4 header's checksum with it.
fn patched(mut frame: Vec<u8>, offset: usize, value: u8) -> Vec<u8> {
    frame[offset] = value;
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..34]).to_be_bytes();
    frame[24..26].copy_from_slice(&sum);
    frame
}

/// A frame as it is on the slow TAP.
fn slow(meta: SlowMeta, frame: &[u8]) -> Vec<u8> {
    let ethertype = [frame[12], frame[13]];
    let front = if ethertype == IP6.to_be_bytes() { IP6 } else { IP4 };
    let meta = SlowMeta { magic: SLOW_MAGIC, ethertype, ..meta };
    [&frame[..12], &front.to_be_bytes(), meta.as_bytes(), &frame[14..]].concat()
}

fn meta(purpose: u8, endpoint_id: u32, ifindex: u32) -> SlowMeta {
    SlowMeta { purpose, endpoint_id, ifindex, ..SlowMeta::default() }
}

/// A frame as it goes to be sealed for a host.
fn to_seal(host_id: u32, vni: u32, frame: &[u8]) -> Vec<u8> {
    let ethertype = [frame[12], frame[13]];
    let meta = SealMeta { magic: SEAL_MAGIC, ethertype, host_id, vni, ..SealMeta::default() };
    [meta.as_bytes(), frame].concat()
}

/// A frame as it comes back opened, from a host.
fn opened(host_id: u32, vni: u32, frame: &[u8]) -> Vec<u8> {
    let sealed = to_seal(host_id, vni, frame);
    let (meta, frame) = sealed.split_at(size_of::<SealMeta>());
    let is_ip6 = frame[12..14] == IP6.to_be_bytes();
    let front = if is_ip6 { IP6 } else { IP4 };
    [&frame[..12], &front.to_be_bytes(), meta, &frame[14..]].concat()
}

fn at_ports(devices: Devices) -> Vec<Fixture> {
    use DropReason as D;
    use Verdict as V;
    let (web, db, lone) = (At::Port(WEB), At::Port(DB), At::Port(LONE));
    let vlan = eth(mac(WEB), mac(DB), VLAN, &[0, 5, 8, 0, 0, 0, 0, 0]);
    let mut bad_version = datagram(WEB, DB);
    bad_version[14] = 0x65;
    let mut bad_version6 = datagram6(WEB, DB);
    bad_version6[14] = 0x40;
    let other: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 200);
    let other6: Ipv6Addr = "fd20::200".parse().unwrap();
    let link_local: Ipv6Addr = "fe80::1234".parse().unwrap();
    vec![
        drops("any frame at a device that is no port", At::Port(0), datagram(WEB, DB), D::NotAPort),
        drops(
            "ARP that ends in the middle",
            web,
            eth(mac(WEB), BROADCAST, ARP, &[0, 1, 8, 0]),
            D::Malformed,
        ),
        drops("IPv4 by type with version 6", web, bad_version, D::Malformed),
        drops("IPv6 by type with version 4", web, bad_version6, D::Malformed),
        drops("a frame with a VLAN tag", web, vlan, D::VlanTagged),
        drops("IPv4 from another's MAC", web, datagram(API, DB), D::SourceMac),
        drops("IPv4 from another's address", web, datagram_from(v4(API), WEB, DB), D::SourceIp4),
        drops(
            "IPv4 from 0.0.0.0",
            web,
            datagram_from(Ipv4Addr::UNSPECIFIED, WEB, DB),
            D::SourceIp4,
        ),
        drops(
            "IPv6 from another's address",
            web,
            datagram6_from(v6(API), WEB, mac(DB)),
            D::SourceIp6,
        ),
        drops(
            "IPv6 unicast from the unspecified address",
            web,
            datagram6_from(Ipv6Addr::UNSPECIFIED, WEB, mac(DB)),
            D::SourceIp6,
        ),
        drops(
            "IPv4 from a prefix that only the router may use",
            web,
            datagram_from(Ipv4Addr::new(10, 30, 1, 1), WEB, DB),
            D::SourceIp4,
        ),
        drops(
            "IPv4 from the router outside of its prefix",
            At::Port(ROUTER),
            datagram_from(Ipv4Addr::new(10, 31, 1, 1), ROUTER, WEB),
            D::SourceIp4,
        ),
        drops(
            "IPv6 from the router outside of its prefix",
            At::Port(ROUTER),
            datagram6_from("fd31::1".parse().unwrap(), ROUTER, mac(WEB)),
            D::SourceIp6,
        ),
        drops("ARP with another's MAC inside", web, arp_from((mac(API), v4(WEB))), D::SourceArp),
        drops(
            "ARP with another's address inside",
            web,
            arp_from((mac(WEB), v4(API))),
            D::SourceArp,
        ),
        drops(
            "ARP of a kind that is not Ethernet and IPv4",
            web,
            eth(mac(WEB), BROADCAST, ARP, &[0; 28]),
            D::Malformed,
        ),
        drops(
            "a solicitation with another's MAC as option",
            web,
            solicit(WEB, v6(WEB), v6(DB), Some((1, mac(API)))),
            D::SourceNd,
        ),
        drops(
            "an advertisement of another's address",
            web,
            advertise(WEB, v6(API), mac(WEB)),
            D::SourceNd,
        ),
        drops(
            "an advertisement with another's MAC",
            web,
            advertise(WEB, v6(WEB), mac(API)),
            D::SourceNd,
        ),
        drops(
            "a solicitation that passed a router",
            web,
            {
                let mut frame = solicit(WEB, v6(WEB), v6(DB), None);
                frame[21] = 254;
                frame
            },
            D::Malformed,
        ),
        drops(
            "a router advertisement of an endpoint that does not route",
            web,
            message6(WEB, MULTICAST, 134),
            D::RouterAdvertisement,
        ),
        drops(
            "an ICMPv6 redirect",
            At::Port(ROUTER),
            message6(ROUTER, mac(WEB), 137),
            D::RedirectMessage,
        ),
        drops("an advertisement behind a hop-by-hop header", web, hidden(1), D::HiddenNd),
        drops("more extension headers than anyone needs", web, hidden(7), D::HiddenNd),
        drops(
            "IPv4 to a MAC that the network does not have",
            web,
            datagram_to(WEB, NOBODY),
            D::UnknownDestination,
        ),
        drops("IPv4 to its own MAC", web, datagram(WEB, WEB), D::Hairpin),
        drops(
            "a bridge's control frame",
            web,
            eth(mac(WEB), [1, 0x80, 0xc2, 0, 0, 0], 0x88cc, &[0; 46]),
            D::ControlFrame,
        ),
        drops("IPv4 in a flow that is refused", web, datagram_to(WEB, REFUSED), D::Refused),
        drops("IPv4 in a flow without carrier", web, datagram_to(WEB, NO_CARRIER), D::NoCarrier),
        drops(
            "IPv4 in a flow to a host that is not written",
            web,
            datagram_to(WEB, NO_PEER),
            D::NoPeer,
        ),
        drops(
            "a broadcast over the MTU",
            web,
            {
                let payload = vec![7; 1400];
                eth(
                    mac(WEB),
                    BROADCAST,
                    IP4,
                    &ip4(v4(WEB), Ipv4Addr::BROADCAST, UDP, &udp(1, 2, &payload)),
                )
            },
            D::MtuExceeded,
        ),
        drops(
            "a frame over the MTU that is no IP",
            web,
            eth(mac(WEB), mac(DB), 0x88b5, &[7; 1400]),
            D::MtuExceeded,
        ),
        goes("ARP for a neighbour here", web, who_has(WEB, v4(DB)), V::Answered, devices.web)
            .becomes(eth(mac(DB), mac(WEB), ARP, &arp(2, (mac(DB), v4(DB)), (mac(WEB), v4(WEB))))),
        goes(
            "ARP for a neighbour at another host",
            web,
            who_has(WEB, v4(API)),
            V::Answered,
            devices.web,
        )
        .becomes(eth(
            mac(API),
            mac(WEB),
            ARP,
            &arp(2, (mac(API), v4(API)), (mac(WEB), v4(WEB))),
        )),
        goes(
            "an ARP probe for a neighbour's address",
            web,
            eth(
                mac(WEB),
                BROADCAST,
                ARP,
                &arp(1, (mac(WEB), Ipv4Addr::UNSPECIFIED), ([0; 6], v4(DB))),
            ),
            V::Answered,
            devices.web,
        ),
        goes(
            "an ARP probe for the own address",
            web,
            eth(
                mac(WEB),
                BROADCAST,
                ARP,
                &arp(1, (mac(WEB), Ipv4Addr::UNSPECIFIED), ([0; 6], v4(WEB))),
            ),
            V::Absorbed,
            0,
        ),
        goes("gratuitous ARP", web, who_has(WEB, v4(WEB)), V::Absorbed, 0),
        goes(
            "an ARP reply",
            web,
            eth(mac(WEB), mac(DB), ARP, &arp(2, (mac(WEB), v4(WEB)), (mac(DB), v4(DB)))),
            V::Absorbed,
            0,
        ),
        goes(
            "ARP of the router from its prefix",
            At::Port(ROUTER),
            eth(
                mac(ROUTER),
                BROADCAST,
                ARP,
                &arp(1, (mac(ROUTER), Ipv4Addr::new(10, 30, 0, 1)), ([0; 6], v4(DB))),
            ),
            V::Answered,
            devices.router,
        ),
        goes("ARP for an address that nobody has", web, who_has(WEB, other), V::Held, devices.slow)
            .becomes(slow(meta(SLOW_NEIGHBOUR, WEB, devices.web), &who_has(WEB, other))),
        goes(
            "a solicitation for a neighbour",
            web,
            solicit(WEB, v6(WEB), v6(DB), Some((1, mac(WEB)))),
            V::Answered,
            devices.web,
        )
        .becomes(eth(
            mac(DB),
            mac(WEB),
            IP6,
            &icmp6(v6(DB), v6(WEB), &nd(136, 0x6000_0000, v6(DB), Some((2, mac(DB))))),
        )),
        goes(
            "a solicitation without option",
            web,
            solicit(WEB, v6(WEB), v6(API), None),
            V::Answered,
            devices.web,
        )
        .becomes(eth(
            mac(API),
            mac(WEB),
            IP6,
            &icmp6(v6(API), v6(WEB), &nd(136, 0x6000_0000, v6(API), Some((2, mac(API))))),
        )),
        goes(
            "a solicitation for a neighbour's link-local address",
            web,
            solicit(WEB, "fe80::1".parse().unwrap(), "fe80::ff:fe00:c".parse().unwrap(), None),
            V::Answered,
            devices.web,
        ),
        goes(
            "duplicate address detection for a neighbour's address",
            web,
            solicit(WEB, Ipv6Addr::UNSPECIFIED, v6(DB), None),
            V::Answered,
            devices.web,
        )
        .becomes(eth(
            mac(DB),
            MULTICAST,
            IP6,
            &icmp6(
                v6(DB),
                "ff02::1".parse().unwrap(),
                &nd(136, 0x2000_0000, v6(DB), Some((2, mac(DB)))),
            ),
        )),
        goes(
            "duplicate address detection for the own address",
            web,
            solicit(WEB, Ipv6Addr::UNSPECIFIED, v6(WEB), None),
            V::Absorbed,
            0,
        ),
        goes(
            "duplicate address detection for a link-local address",
            web,
            solicit(WEB, Ipv6Addr::UNSPECIFIED, link_local, None),
            V::Absorbed,
            0,
        ),
        goes(
            "an advertisement of the own address",
            web,
            advertise(WEB, v6(WEB), mac(WEB)),
            V::Absorbed,
            0,
        ),
        goes(
            "a solicitation for an address that nobody has",
            web,
            solicit(WEB, v6(WEB), other6, None),
            V::Held,
            devices.slow,
        )
        .becomes(slow(
            meta(SLOW_NEIGHBOUR, WEB, devices.web),
            &solicit(WEB, v6(WEB), other6, None),
        )),
        goes("IPv4 to a TAP of this host", web, datagram(WEB, DB), V::SameHost, devices.db)
            .becomes(datagram(WEB, DB)),
        goes("IPv6 to a TAP of this host", web, datagram6(WEB, DB), V::SameHost, devices.db),
        goes("IPv4 to a namespace of this host", db, datagram(DB, WEB), V::SameHost, devices.web),
        goes("IPv6 to a namespace of this host", db, datagram6(DB, WEB), V::SameHost, devices.web),
        goes(
            "a frame that is no IP to a TAP of this host",
            web,
            eth(mac(WEB), mac(DB), 0x88b5, &[7; 46]),
            V::SameHost,
            devices.db,
        ),
        goes(
            "IPv6 from a link-local address",
            web,
            datagram6_from(link_local, WEB, mac(DB)),
            V::SameHost,
            devices.db,
        ),
        goes(
            "IPv4 of the router from its prefix",
            At::Port(ROUTER),
            datagram_from(Ipv4Addr::new(10, 30, 1, 1), ROUTER, WEB),
            V::SameHost,
            devices.web,
        ),
        goes(
            "IPv6 of the router from its prefix",
            At::Port(ROUTER),
            datagram6_from("fd30::5".parse().unwrap(), ROUTER, mac(WEB)),
            V::SameHost,
            devices.web,
        ),
        goes(
            "an IPv4 packet of exactly the MTU",
            web,
            sized(WEB, DB, 1320),
            V::SameHost,
            devices.db,
        ),
        goes(
            "a TCP super-packet whose segments fit",
            web,
            segment(WEB, DB, 2560),
            V::SameHost,
            devices.db,
        )
        .gso(1280),
        goes(
            "a TCP super-packet over IPv6 whose segments fit",
            web,
            segment6(WEB, DB, 2520),
            V::SameHost,
            devices.db,
        )
        .gso(1260),
        goes(
            "a UDP super-packet whose datagrams fit",
            web,
            sized(WEB, DB, 2612),
            V::SameHost,
            devices.db,
        )
        .gso(1292),
        goes(
            "an IPv4 packet one byte over the MTU",
            web,
            sized(WEB, DB, 1321),
            V::Held,
            devices.slow,
        )
        .becomes(slow(
            SlowMeta { mtu: MTU, ..meta(SLOW_MTU, WEB, devices.web) },
            &sized(WEB, DB, 1321),
        )),
        goes(
            "a TCP super-packet whose segments do not fit",
            web,
            segment(WEB, DB, 2562),
            V::Held,
            devices.slow,
        )
        .gso(1281),
        goes(
            "a TCP super-packet over IPv6 whose segments do not fit",
            web,
            segment6(WEB, DB, 2522),
            V::Held,
            devices.slow,
        )
        .gso(1261),
        goes(
            "a UDP super-packet whose datagrams do not fit",
            web,
            sized(WEB, DB, 2614),
            V::Held,
            devices.slow,
        )
        .gso(1293),
        goes(
            "an IPv4 packet over what the path to the host carries",
            web,
            sized(WEB, API, 1301),
            V::Held,
            devices.slow,
        )
        .becomes(slow(
            SlowMeta { mtu: 1300, ..meta(SLOW_MTU, WEB, devices.web) },
            &sized(WEB, API, 1301),
        )),
        drops(
            "IPv4 in a sealed flow to a host that is not sealed",
            web,
            datagram_to(WEB, NO_SEALED_PEER),
            D::NoPeer,
        ),
        goes("IPv4 to a sealed host", web, datagram(WEB, VAULT), V::Sealed, DELTA)
            .becomes(to_seal(DELTA, BLUE, &datagram(WEB, VAULT))),
        goes("IPv6 to a sealed host", web, datagram6(WEB, VAULT), V::Sealed, DELTA)
            .becomes(to_seal(DELTA, BLUE, &datagram6(WEB, VAULT))),
        goes(
            "a frame that is no IP to a sealed host",
            web,
            eth(mac(WEB), mac(VAULT), 0x88b5, &[7; 6]),
            V::Sealed,
            DELTA,
        )
        .becomes(to_seal(DELTA, BLUE, &eth(mac(WEB), mac(VAULT), 0x88b5, &[7; 6]))),
        goes(
            "a TCP super-packet to a sealed host",
            web,
            segment(WEB, VAULT, 2000),
            V::Sealed,
            DELTA,
        )
        .gso(1000)
        .becomes(to_seal(DELTA, BLUE, &segment(WEB, VAULT, 2000))),
        goes(
            "a UDP super-packet over IPv6 to a sealed host",
            web,
            datagram6(WEB, VAULT),
            V::Sealed,
            DELTA,
        )
        .gso(16)
        .becomes(to_seal(DELTA, BLUE, &datagram6(WEB, VAULT))),
        goes(
            "IPv4 in a sealed network to a host that has others in VXLAN",
            At::Port(MINT),
            datagram(MINT, SAFE),
            V::Sealed,
            BETA,
        )
        .becomes(to_seal(BETA, GREEN, &datagram(MINT, SAFE))),
        goes(
            "IPv4 over what the sealed path to the host carries",
            web,
            sized(WEB, VAULT, 1291),
            V::Held,
            devices.slow,
        )
        .becomes(slow(
            SlowMeta { mtu: 1290, ..meta(SLOW_MTU, WEB, devices.web) },
            &sized(WEB, VAULT, 1291),
        )),
        goes(
            "a broadcast in a sealed network",
            At::Port(MINT),
            datagram_to(MINT, BROADCAST),
            V::Replicated,
            GREEN,
        ),
        goes("IPv4 to another host", web, datagram(WEB, API), V::Direct, BETA),
        goes("IPv6 to another host", web, datagram6(WEB, API), V::Direct, BETA),
        goes(
            "a super-packet that takes no header here",
            web,
            segment(WEB, API, 2000),
            V::Device,
            BETA,
        )
        .gso(1000),
        goes(
            "a frame that is no IP to another host",
            web,
            eth(mac(WEB), mac(API), 0x88b5, &[7; 46]),
            V::Device,
            BETA,
        ),
        goes("IPv4 to a host over IPv6", web, datagram(WEB, EDGE), V::Device, GAMMA),
        goes("a broadcast", web, datagram_to(WEB, BROADCAST), V::Replicated, BLUE),
        goes("an IPv6 multicast", web, message6(WEB, MULTICAST, 143), V::Replicated, BLUE),
        goes("a router solicitation", web, message6(WEB, MULTICAST, 133), V::Replicated, BLUE),
        goes(
            "a router advertisement of the router",
            At::Port(ROUTER),
            message6(ROUTER, MULTICAST, 134),
            V::Replicated,
            BLUE,
        ),
        goes(
            "a broadcast in red",
            At::Port(TWIN),
            datagram_to(TWIN, BROADCAST),
            V::Replicated,
            RED,
        ),
        drops(
            "IPv4 in red to a MAC that only blue has",
            At::Port(TWIN),
            datagram(TWIN, DB),
            D::UnknownDestination,
        ),
        goes("the first IPv4 packet to a neighbour", db, datagram(DB, API), V::Held, devices.slow)
            .becomes(slow(meta(SLOW_MISS, DB, devices.db), &datagram(DB, API))),
        goes("the first IPv6 packet to a neighbour", db, datagram6(DB, API), V::Held, devices.slow)
            .becomes(slow(meta(SLOW_MISS, DB, devices.db), &datagram6(DB, API))),
        goes(
            "the first frame to a neighbour that is no IP",
            db,
            eth(mac(DB), mac(API), 0x88b5, &[7; 46]),
            V::Held,
            devices.slow,
        )
        .becomes(slow(meta(SLOW_MISS, DB, devices.db), &eth(mac(DB), mac(API), 0x88b5, &[7; 46]))),
        goes(
            "the one first packet that a tiny budget allows",
            lone,
            datagram(LONE, API),
            V::Held,
            devices.slow,
        ),
        drops("the next one", lone, datagram(LONE, DB), D::MissBudget),
        goes(
            "the one unknown neighbour that a tiny budget allows",
            lone,
            who_has(LONE, other),
            V::Held,
            devices.slow,
        ),
        drops("the next one, by ARP", lone, who_has(LONE, other), D::NeighbourUnknown),
        drops(
            "the next one, by solicitation",
            lone,
            solicit(LONE, v6(LONE), other6, None),
            D::NeighbourUnknown,
        ),
        goes(
            "the one broadcast that a tiny budget allows",
            lone,
            datagram_to(LONE, BROADCAST),
            V::Replicated,
            BLUE,
        ),
        drops("the next broadcast", lone, datagram_to(LONE, BROADCAST), D::ReplicateBudget),
    ]
}

fn at_the_underlay(devices: Devices) -> Vec<Fixture> {
    use DropReason as D;
    use Verdict as V;
    let under = At::Underlay;
    let blue = |frame: &[u8]| from_host(BETA_IP, BLUE, frame);
    let plain = datagram(API, WEB);
    let mut reserved = blue(&plain);
    reserved[42] = 0x88;
    let mut checksummed = blue(&plain);
    checksummed[40] = 1;
    vec![
        goes("IPv4 from its host to a namespace", under, blue(&plain), V::Delivered, devices.web)
            .becomes(plain.clone()),
        goes(
            "IPv6 from its host to a namespace",
            under,
            blue(&datagram6(API, WEB)),
            V::Delivered,
            devices.web,
        )
        .becomes(datagram6(API, WEB)),
        goes(
            "IPv4 from its host to a TAP",
            under,
            blue(&datagram(API, DB)),
            V::Delivered,
            devices.db,
        )
        .becomes(datagram(API, DB)),
        goes(
            "an IPv6 echo",
            under,
            blue(&eth(
                mac(API),
                mac(WEB),
                IP6,
                &icmp6(v6(API), v6(WEB), &[128, 0, 0, 0, 0, 1, 0, 1]),
            )),
            V::Delivered,
            devices.web,
        ),
        goes(
            "IPv4 of a remote router from its prefix",
            under,
            blue(&datagram_from(Ipv4Addr::new(10, 40, 3, 3), GATE, WEB)),
            V::Delivered,
            devices.web,
        ),
        goes(
            "a super-packet whose header does not come off here",
            under,
            blue(&segment(API, WEB, 2000)),
            V::Passed,
            0,
        )
        .gso(1000),
        goes("a TCP super-packet to a TAP", under, blue(&segment(API, DB, 2000)), V::Passed, 0)
            .gso(1000),
        goes("a UDP super-packet", under, blue(&sized(API, WEB, 2000)), V::Passed, 0).gso(1000),
        goes("a broadcast in VXLAN", under, blue(&datagram_to(API, BROADCAST)), V::Passed, 0),
        goes(
            "a frame in VXLAN that is no IP",
            under,
            blue(&eth(mac(API), mac(WEB), 0x88b5, &[7; 46])),
            V::Passed,
            0,
        ),
        goes(
            "a neighbour message in VXLAN",
            under,
            blue(&eth(
                mac(API),
                mac(WEB),
                IP6,
                &icmp6(v6(API), v6(WEB), &nd(136, 0, v6(API), None)),
            )),
            V::Passed,
            0,
        ),
        goes(
            "extension headers in VXLAN",
            under,
            blue(&eth(
                mac(API),
                mac(WEB),
                IP6,
                &ip6(v6(API), v6(WEB), 0, &[UDP, 0, 1, 4, 0, 0, 0, 0]),
            )),
            V::Passed,
            0,
        ),
        goes("a VXLAN header with other flags", under, reserved, V::Passed, 0),
        goes("VXLAN with an outer checksum", under, checksummed, V::Passed, 0),
        goes("VXLAN with a congestion mark", under, patched(blue(&plain), 15, 3), V::Passed, 0),
        goes("VXLAN that is too short for a frame", under, blue(&plain[..10]), V::Passed, 0),
        goes(
            "VXLAN from an address that is no host's",
            under,
            from_host(STRANGER_IP, BLUE, &plain),
            V::Passed,
            0,
        ),
        goes(
            "VXLAN to another address of this host",
            under,
            eth(
                BETA_MAC,
                ALPHA_MAC,
                IP4,
                &vxlan(BETA_IP, STRANGER_IP, (50_000, VXLAN_PORT), BLUE, &plain),
            ),
            V::Passed,
            0,
        ),
        drops(
            "IPv4 in a network that is not here",
            under,
            from_host(BETA_IP, 1, &plain),
            D::UnknownDestination,
        ),
        drops(
            "IPv4 to a MAC that the network does not have",
            under,
            blue(&datagram_to(API, NOBODY)),
            D::UnknownDestination,
        ),
        drops(
            "IPv4 to an endpoint of a third host",
            under,
            blue(&datagram(API, EDGE)),
            D::UnknownDestination,
        ),
        drops(
            "IPv4 from a MAC that is located elsewhere",
            under,
            blue(&datagram(EDGE, WEB)),
            D::SenderMismatch,
        ),
        drops(
            "IPv4 from a MAC that is located here",
            under,
            blue(&datagram(DB, WEB)),
            D::SenderMismatch,
        ),
        drops(
            "IPv4 from a MAC that nobody has",
            under,
            blue(&eth(NOBODY, mac(WEB), IP4, &ip4(v4(API), v4(WEB), UDP, &udp(1, 2, &[])))),
            D::SenderMismatch,
        ),
        drops(
            "IPv4 from an address that is not the sender's",
            under,
            blue(&datagram_from(v4(EDGE), API, WEB)),
            D::SenderMismatch,
        ),
        drops(
            "IPv6 from an address that is not the sender's",
            under,
            blue(&datagram6_from(v6(EDGE), API, mac(WEB))),
            D::SenderMismatch,
        ),
        drops(
            "IPv4 in the clear in a sealed network",
            under,
            from_host(BETA_IP, GREEN, &datagram(SAFE, MINT)),
            D::NotSealed,
        ),
        drops(
            "IPv4 in a network for which the two hosts share no carrier",
            under,
            blue(&datagram(LOST, WEB)),
            D::NotShared,
        ),
        drops(
            "IPv4 from blue's host in red",
            under,
            from_host(BETA_IP, RED, &datagram(API, TWIN)),
            D::SenderMismatch,
        ),
    ]
}

/// What the underlay's program must not even count.
fn not_ours() -> Vec<(&'static str, Vec<u8>)> {
    let ours = from_host(BETA_IP, BLUE, &datagram(API, WEB));
    let to_port = |port| {
        eth(BETA_MAC, ALPHA_MAC, IP4, &vxlan(BETA_IP, ALPHA_IP, (50_000, port), BLUE, &[0; 64]))
    };
    vec![
        ("UDP to another port", to_port(53)),
        ("TCP", eth(BETA_MAC, ALPHA_MAC, IP4, &ip4(BETA_IP, ALPHA_IP, TCP, &tcp(&[0; 64])))),
        (
            "IPv6",
            eth(
                BETA_MAC,
                ALPHA_MAC,
                IP6,
                &ip6(GAMMA_IP6, ALPHA_IP6, UDP, &udp(1, VXLAN_PORT, &[0; 64])),
            ),
        ),
        ("ARP", eth(BETA_MAC, BROADCAST, ARP, &arp(1, (BETA_MAC, BETA_IP), ([0; 6], ALPHA_IP)))),
        ("a first fragment of VXLAN", patched(ours.clone(), 20, 0x20)),
        ("VXLAN behind IP options", patched(ours, 14, 0x46)),
        ("a short frame", eth(BETA_MAC, ALPHA_MAC, IP4, &[0x45; 20])),
    ]
}

fn at_the_vxlan_device(devices: Devices) -> Vec<Fixture> {
    use DropReason as D;
    use Verdict as V;
    let beta = At::Vxlan(BLUE, mapped(BETA_IP));
    let gamma = At::Vxlan(BLUE, mapped(GAMMA_IP6));
    let foreign = At::Vxlan(BLUE, mapped(FOREIGN_IP));
    let foreign_ask = |sender: (Mac, Ipv4Addr), target| {
        eth(mac(PLAIN), BROADCAST, ARP, &arp(1, sender, ([0; 6], target)))
    };
    let me = (mac(PLAIN), v4(PLAIN));
    vec![
        drops(
            "a frame without tunnel information",
            At::Vxlan(0, [0; 16]),
            datagram(API, WEB),
            D::SenderUnknown,
        ),
        drops(
            "IPv4 from an underlay address that is no host's",
            At::Vxlan(BLUE, mapped(STRANGER_IP)),
            datagram(API, WEB),
            D::SenderUnknown,
        ),
        drops(
            "an ARP message that ends in the middle",
            beta,
            eth(mac(API), mac(WEB), ARP, &[0; 8]),
            D::Malformed,
        ),
        drops(
            "IPv4 from a MAC that is located elsewhere",
            beta,
            datagram(EDGE, WEB),
            D::SenderMismatch,
        ),
        drops(
            "a broadcast from a MAC that is located here",
            beta,
            datagram_to(DB, BROADCAST),
            D::SenderMismatch,
        ),
        drops(
            "IPv4 from an address that is not the sender's",
            beta,
            datagram_from(v4(EDGE), API, WEB),
            D::SenderMismatch,
        ),
        drops(
            "IPv4 in another network",
            At::Vxlan(RED, mapped(BETA_IP)),
            datagram(API, WEB),
            D::SenderMismatch,
        ),
        drops(
            "ARP of a host that answers its own",
            beta,
            who_has(API, v4(WEB)),
            D::NeighbourFromRemote,
        ),
        drops(
            "a solicitation of a host that answers its own",
            beta,
            solicit(API, v6(API), v6(WEB), None),
            D::NeighbourFromRemote,
        ),
        drops(
            "a router advertisement of an endpoint that does not route",
            beta,
            message6(API, MULTICAST, 134),
            D::RouterAdvertisement,
        ),
        drops("an ICMPv6 redirect", beta, message6(API, mac(WEB), 137), D::RedirectMessage),
        drops(
            "a neighbour message behind extension headers",
            beta,
            eth(mac(API), mac(WEB), IP6, &hidden(1)[14..])
                .tap(|frame| frame[22..38].copy_from_slice(&v6(API).octets())),
            D::HiddenNd,
        ),
        drops(
            "a bridge's control frame",
            beta,
            eth(mac(API), [1, 0x80, 0xc2, 0, 0, 3], 0x888e, &[0; 46]),
            D::ControlFrame,
        ),
        drops(
            "IPv4 to an endpoint of a third host",
            beta,
            datagram(API, EDGE),
            D::UnknownDestination,
        ),
        drops(
            "IPv4 to a MAC that the network does not have",
            beta,
            datagram_to(API, NOBODY),
            D::UnknownDestination,
        ),
        drops(
            "IPv4 in the clear in a sealed network",
            At::Vxlan(GREEN, mapped(BETA_IP)),
            datagram(SAFE, MINT),
            D::NotSealed,
        ),
        drops(
            "a broadcast in the clear in a sealed network",
            At::Vxlan(GREEN, mapped(BETA_IP)),
            datagram_to(SAFE, BROADCAST),
            D::NotSealed,
        ),
        drops(
            "IPv4 in a network for which the two hosts share no carrier",
            beta,
            datagram(LOST, WEB),
            D::NotShared,
        ),
        drops(
            "a frame with a VLAN tag",
            beta,
            eth(mac(API), mac(WEB), VLAN, &[0, 5, 8, 0, 0, 0, 0, 0]),
            D::VlanTagged,
        ),
        goes("IPv4 to a namespace", beta, datagram(API, WEB), V::Delivered, devices.web),
        goes("IPv4 to a TAP", beta, datagram(API, DB), V::Delivered, devices.db),
        goes("IPv6 from a host over IPv6", gamma, datagram6(EDGE, WEB), V::Delivered, devices.web),
        goes("a UDP super-packet", beta, sized(API, WEB, 2000), V::Delivered, devices.web)
            .gso(1000),
        goes(
            "a frame that is no IP",
            beta,
            eth(mac(API), mac(WEB), 0x88b5, &[7; 46]),
            V::Delivered,
            devices.web,
        ),
        goes("a broadcast", beta, datagram_to(API, BROADCAST), V::Replicated, BLUE),
        goes(
            "a router advertisement of a remote router",
            beta,
            message6(GATE, MULTICAST, 134),
            V::Replicated,
            BLUE,
        ),
        goes("ARP of a foreign host", foreign, foreign_ask(me, v4(WEB)), V::Answered, FOREIGN)
            .becomes(eth(mac(WEB), mac(PLAIN), ARP, &arp(2, (mac(WEB), v4(WEB)), me))),
        goes(
            "a solicitation of a foreign host",
            foreign,
            solicit(PLAIN, v6(PLAIN), v6(WEB), Some((1, mac(PLAIN)))),
            V::Answered,
            FOREIGN,
        ),
        goes(
            "gratuitous ARP of a foreign host",
            foreign,
            foreign_ask(me, v4(PLAIN)),
            V::Absorbed,
            0,
        ),
        drops(
            "ARP of a foreign host for an address that nobody has",
            foreign,
            foreign_ask(me, Ipv4Addr::new(10, 20, 0, 200)),
            D::NeighbourUnknown,
        ),
        drops(
            "ARP of a foreign host with another's address",
            foreign,
            foreign_ask((mac(PLAIN), v4(WEB)), v4(DB)),
            D::SourceArp,
        ),
        drops(
            "an advertisement of a foreign host for another's address",
            foreign,
            advertise(PLAIN, v6(WEB), mac(PLAIN)),
            D::SourceNd,
        ),
    ]
}

fn at_the_slow_tap(devices: Devices) -> Vec<Fixture> {
    use DropReason as D;
    use Verdict as V;
    let web = |purpose| meta(purpose, WEB, devices.web);
    let refusal = |reason: DropReason| SlowMeta { reason: reason as u8, ..web(SLOW_DROP) };
    let error = eth(NOBODY, mac(WEB), IP4, &ip4(v4(DB), v4(WEB), 1, &[3, 4, 0, 0, 0, 0, 5, 40]));
    let error6 = eth(NOBODY, mac(WEB), IP6, &icmp6(v6(DB), v6(WEB), &[2, 0, 0, 0, 0, 0, 5, 40]));
    let frame = eth(mac(WEB), mac(DB), 0x88b5, &[7; 46]);
    let mut no_magic = slow(web(SLOW_RESEND), &datagram(WEB, DB));
    no_magic[14] = 0;
    vec![
        drops("a frame that is no frame of the shuttle's", At::Slow, no_magic, D::SlowFrame),
        drops(
            "a frame with a purpose that is not known",
            At::Slow,
            slow(web(99), &datagram(WEB, DB)),
            D::SlowFrame,
        ),
        drops(
            "a frame that is too short for its header",
            At::Slow,
            eth(mac(WEB), mac(DB), 0x88b5, &[SLOW_MAGIC; 8]),
            D::SlowFrame,
        ),
        drops(
            "a frame that is too short to take the header off",
            At::Slow,
            slow(web(SLOW_RESEND), &eth(mac(WEB), mac(DB), 0x88b5, &[1; 5])),
            D::SlowFrame,
        ),
        drops(
            "a frame for a port that is gone",
            At::Slow,
            slow(meta(SLOW_RESEND, WEB, devices.stray), &datagram(WEB, DB)),
            D::PortGone,
        ),
        drops(
            "a frame for a port that is another endpoint's now",
            At::Slow,
            slow(meta(SLOW_RESEND, WEB, devices.db), &datagram(WEB, DB)),
            D::PortGone,
        ),
        drops(
            "a frame that the shuttle had no room for",
            At::Slow,
            slow(refusal(D::HoldFull), &datagram(WEB, DB)),
            D::HoldFull,
        ),
        drops(
            "a frame that nobody answered for",
            At::Slow,
            slow(refusal(D::Unresolved), &datagram(WEB, DB)),
            D::Unresolved,
        ),
        drops(
            "a frame over the MTU whose error was sent",
            At::Slow,
            slow(refusal(D::MtuExceeded), &datagram(WEB, DB)),
            D::MtuExceeded,
        ),
        goes(
            "IPv4 that has a flow now",
            At::Slow,
            slow(web(SLOW_RESEND), &datagram(WEB, DB)),
            V::SameHost,
            devices.db,
        )
        .becomes(datagram(WEB, DB)),
        goes(
            "IPv6 that has a flow now",
            At::Slow,
            slow(web(SLOW_RESEND), &datagram6(WEB, DB)),
            V::SameHost,
            devices.db,
        )
        .becomes(datagram6(WEB, DB)),
        goes(
            "a frame that is no IP and has a flow now",
            At::Slow,
            slow(web(SLOW_RESEND), &frame),
            V::SameHost,
            devices.db,
        )
        .becomes(frame.clone()),
        goes(
            "IPv4 to another host that has a flow now",
            At::Slow,
            slow(web(SLOW_RESEND), &datagram(WEB, API)),
            V::Direct,
            BETA,
        ),
        goes(
            "IPv4 to a sealed host that has a flow now",
            At::Slow,
            slow(web(SLOW_RESEND), &datagram(WEB, VAULT)),
            V::Sealed,
            DELTA,
        )
        .becomes(to_seal(DELTA, BLUE, &datagram(WEB, VAULT))),
        goes(
            "ARP whose neighbour came meanwhile",
            At::Slow,
            slow(web(SLOW_RESEND), &who_has(WEB, v4(DB))),
            V::Answered,
            devices.web,
        )
        .becomes(eth(
            mac(DB),
            mac(WEB),
            ARP,
            &arp(2, (mac(DB), v4(DB)), (mac(WEB), v4(WEB))),
        )),
        goes(
            "a solicitation whose neighbour came meanwhile",
            At::Slow,
            slow(web(SLOW_RESEND), &solicit(WEB, v6(WEB), v6(DB), None)),
            V::Answered,
            devices.web,
        ),
        drops(
            "IPv4 that still has no flow",
            At::Slow,
            slow(meta(SLOW_RESEND, DB, devices.db), &datagram(DB, API)),
            D::Unresolved,
        ),
        drops(
            "ARP that still has no neighbour",
            At::Slow,
            slow(web(SLOW_RESEND), &who_has(WEB, Ipv4Addr::new(10, 20, 0, 200))),
            D::NeighbourUnknown,
        ),
        drops(
            "IPv4 that is still over the MTU",
            At::Slow,
            slow(web(SLOW_RESEND), &sized(WEB, DB, 1321)),
            D::MtuExceeded,
        ),
        goes(
            "an IPv4 error for the source",
            At::Slow,
            slow(web(SLOW_TO_SOURCE), &error),
            V::Delivered,
            devices.web,
        )
        .becomes(error),
        goes(
            "an IPv6 error for the source",
            At::Slow,
            slow(web(SLOW_TO_SOURCE), &error6),
            V::Delivered,
            devices.web,
        )
        .becomes(error6),
    ]
}

fn at_the_seal_tap(devices: Devices) -> Vec<Fixture> {
    use DropReason as D;
    use Verdict as V;
    let seal = At::Seal;
    let blue = |frame: &[u8]| opened(DELTA, BLUE, frame);
    let no_magic = blue(&datagram(VAULT, WEB)).tap(|frame| frame[14] = SLOW_MAGIC);
    let other_type =
        blue(&datagram6(VAULT, WEB)).tap(|frame| frame[12..14].copy_from_slice(&IP4.to_be_bytes()));
    let short6 = blue(&eth(mac(VAULT), mac(WEB), IP6, &[0x60; 24]));
    vec![
        drops("a frame that is not marked as opened", seal, no_magic, D::SealFrame),
        drops("IPv6 behind the type of IPv4", seal, other_type, D::SealFrame),
        drops(
            "a frame that is too short for its header",
            seal,
            eth(mac(VAULT), mac(WEB), 0x88b5, &[SEAL_MAGIC; 8]),
            D::SealFrame,
        ),
        drops("IPv6 that is too short to take the header off", seal, short6, D::SealFrame),
        drops(
            "IPv4 of a host that is not known",
            seal,
            opened(NOWHERE, BLUE, &datagram(VAULT, WEB)),
            D::SenderUnknown,
        ),
        drops(
            "IPv4 of a host that is not sealed",
            seal,
            opened(GAMMA, BLUE, &datagram(EDGE, WEB)),
            D::SenderUnknown,
        ),
        drops(
            "IPv4 in a network that the host may not bring sealed",
            seal,
            opened(BETA, BLUE, &datagram(API, WEB)),
            D::NotShared,
        ),
        drops(
            "IPv4 in another network",
            seal,
            opened(DELTA, GREEN, &datagram(VAULT, MINT)),
            D::SenderMismatch,
        ),
        drops(
            "IPv4 from a MAC that is located at another sealed host",
            seal,
            opened(DELTA, GREEN, &datagram(SAFE, MINT)),
            D::SenderMismatch,
        ),
        drops(
            "IPv4 from a MAC that is located here",
            seal,
            blue(&datagram(DB, WEB)),
            D::SenderMismatch,
        ),
        drops(
            "IPv4 from an address that is not the sender's",
            seal,
            blue(&datagram_from(v4(EDGE), VAULT, WEB)),
            D::SenderMismatch,
        ),
        drops(
            "an ARP message that ends in the middle",
            seal,
            // Padded with zeros, so it is as long as one, but none.
            blue(&eth(mac(VAULT), mac(WEB), ARP, &[0; 8])),
            D::Malformed,
        ),
        drops(
            "a frame with a VLAN tag",
            seal,
            blue(&eth(mac(VAULT), mac(WEB), VLAN, &[0, 5, 8, 0, 0, 0, 0, 0])),
            D::VlanTagged,
        ),
        drops("ARP", seal, blue(&who_has(VAULT, v4(WEB))), D::NeighbourFromRemote),
        drops(
            "a solicitation",
            seal,
            blue(&solicit(VAULT, v6(VAULT), v6(WEB), None)),
            D::NeighbourFromRemote,
        ),
        drops(
            "a router advertisement of an endpoint that does not route",
            seal,
            blue(&message6(VAULT, MULTICAST, 134)),
            D::RouterAdvertisement,
        ),
        drops(
            "a bridge's control frame",
            seal,
            blue(&eth(mac(VAULT), [1, 0x80, 0xc2, 0, 0, 3], 0x888e, &[0; 46])),
            D::ControlFrame,
        ),
        drops(
            "IPv4 to an endpoint of a third host",
            seal,
            blue(&datagram(VAULT, EDGE)),
            D::UnknownDestination,
        ),
        goes("IPv4 to a namespace", seal, blue(&datagram(VAULT, WEB)), V::Delivered, devices.web)
            .becomes(datagram(VAULT, WEB)),
        goes("IPv6 to a namespace", seal, blue(&datagram6(VAULT, WEB)), V::Delivered, devices.web)
            .becomes(datagram6(VAULT, WEB)),
        goes("IPv4 to a TAP", seal, blue(&datagram(VAULT, DB)), V::Delivered, devices.db)
            .becomes(datagram(VAULT, DB)),
        goes(
            "IPv4 in a sealed network of a host that has others in VXLAN",
            seal,
            opened(BETA, GREEN, &datagram(SAFE, MINT)),
            V::Delivered,
            devices.mint,
        )
        .becomes(datagram(SAFE, MINT)),
        goes(
            "a frame that is no IP",
            seal,
            blue(&eth(mac(VAULT), mac(WEB), 0x88b5, &[7; 46])),
            V::Delivered,
            devices.web,
        )
        .becomes(eth(mac(VAULT), mac(WEB), 0x88b5, &[7; 46])),
        goes(
            "a frame that is no IP, and shorter than any IP",
            seal,
            blue(&eth(mac(VAULT), mac(WEB), 0x8863, &[7; 6])),
            V::Delivered,
            devices.web,
        )
        .becomes(eth(mac(VAULT), mac(WEB), 0x8863, &[&[7; 6][..], &[0; 14]].concat())),
        goes("a broadcast", seal, blue(&datagram_to(VAULT, BROADCAST)), V::Replicated, BLUE)
            .becomes(datagram_to(VAULT, BROADCAST)),
    ]
}

/// A packet of the client, as the shuttle gives it: with no MACs.
fn from_phone(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..12].fill(0);
    opened(client_number(PHONE), 0, &frame)
}

fn at_clients(devices: Devices) -> Vec<Fixture> {
    use DropReason as D;
    use Verdict as V;
    let (seal, web) = (At::Seal, At::Port(WEB));
    let phone = client_number(PHONE);
    let group = |target: Ipv4Addr, mac: Mac| {
        eth(self::mac(PHONE), mac, IP4, &ip4(v4(PHONE), target, UDP, &udp(1, 2, &[7; 32])))
    };
    let group6 = |target: Ipv6Addr, mac: Mac| {
        eth(self::mac(PHONE), mac, IP6, &ip6(v6(PHONE), target, UDP, &udp(1, 2, &[7; 32])))
    };
    // Last, it was made ready for the sealed host.
    let sent_on = |words, frame: Vec<u8>| {
        goes(words, seal, from_phone(&frame), V::Replicated, BLUE)
            .becomes(to_seal(DELTA, BLUE, &frame))
    };
    let wrong_version = datagram(PHONE, WEB).tap(|frame| frame[14] = 0x65);
    let nobody = Ipv4Addr::new(10, 20, 0, 0xee);
    let to_source = meta(SLOW_TO_SOURCE, PHONE, phone);
    let resend = meta(SLOW_RESEND, PHONE, phone);
    vec![
        // From the client.
        goes(
            "IPv4 of a client to a namespace",
            seal,
            from_phone(&datagram(PHONE, WEB)),
            V::SameHost,
            devices.web,
        )
        .becomes(datagram(PHONE, WEB)),
        goes(
            "IPv6 of a client to a namespace",
            seal,
            from_phone(&datagram6(PHONE, WEB)),
            V::SameHost,
            devices.web,
        )
        .becomes(datagram6(PHONE, WEB)),
        goes(
            "IPv4 of a client to a TAP",
            seal,
            from_phone(&datagram(PHONE, DB)),
            V::SameHost,
            devices.db,
        )
        .becomes(datagram(PHONE, DB)),
        goes(
            "IPv4 of a client to a host in VXLAN",
            seal,
            from_phone(&datagram(PHONE, API)),
            V::Direct,
            BETA,
        ),
        goes(
            "IPv4 of a client to a sealed host",
            seal,
            from_phone(&datagram(PHONE, VAULT)),
            V::Sealed,
            DELTA,
        )
        .becomes(to_seal(DELTA, BLUE, &datagram(PHONE, VAULT))),
        goes(
            "a first packet of a client",
            seal,
            from_phone(&datagram(PHONE, ROUTER)),
            V::Held,
            devices.slow,
        )
        .becomes(slow(meta(SLOW_MISS, PHONE, phone), &datagram(PHONE, ROUTER))),
        goes(
            "a packet of a client that is too large",
            seal,
            from_phone(&sized(PHONE, WEB, 1281)),
            V::Held,
            devices.slow,
        ),
        goes(
            "a packet of a client that just fits",
            seal,
            from_phone(&sized(PHONE, WEB, 1280)),
            V::SameHost,
            devices.web,
        ),
        drops(
            "IPv4 of a client from another's address",
            seal,
            from_phone(&datagram_from(v4(DB), PHONE, WEB)),
            D::SourceIp4,
        ),
        drops(
            "IPv6 of a client from another's address",
            seal,
            from_phone(&datagram6_from(v6(DB), PHONE, mac(WEB))),
            D::SourceIp6,
        ),
        drops(
            "IPv4 of a client to an address that nobody has",
            seal,
            from_phone(&group(nobody, NOBODY)),
            D::NeighbourUnknown,
        ),
        drops(
            "IPv4 of a client to itself",
            seal,
            from_phone(&group(v4(PHONE), mac(PHONE))),
            D::Hairpin,
        ),
        drops(
            "a client's packet whose version is another than its type says",
            seal,
            from_phone(&wrong_version),
            D::Malformed,
        ),
        drops(
            "a client's packet that is no IP",
            seal,
            from_phone(&eth(mac(PHONE), mac(WEB), 0x88b5, &[7; 46])),
            D::Malformed,
        ),
        drops(
            "IPv4 of an endpoint that is no client",
            seal,
            opened(client_number(WEB), BLUE, &datagram(WEB, DB)),
            D::SenderUnknown,
        ),
        drops(
            "a client's router advertisement",
            seal,
            from_phone(&message6(PHONE, MULTICAST, 134)),
            D::RouterAdvertisement,
        ),
        goes(
            "a client's solicitation",
            seal,
            from_phone(&solicit(PHONE, v6(PHONE), v6(WEB), None)),
            V::Absorbed,
            0,
        ),
        sent_on("a client's broadcast", group(Ipv4Addr::BROADCAST, BROADCAST)),
        sent_on(
            "a client's multicast",
            group(Ipv4Addr::new(239, 255, 255, 250), [1, 0, 0x5e, 0x7f, 0xff, 0xfa]),
        ),
        sent_on(
            "a client's IPv6 multicast",
            group6("ff02::fb".parse().unwrap(), [0x33, 0x33, 0, 0, 0, 0xfb]),
        ),
        // To the client.
        goes("IPv4 to a client", web, datagram(WEB, PHONE), V::SameHost, phone).becomes(to_seal(
            phone,
            BLUE,
            &datagram(WEB, PHONE),
        )),
        goes("a super-packet to a client", web, segment(WEB, PHONE, 3000), V::SameHost, phone)
            .gso(1240),
        goes(
            "a packet that a client's tunnel does not take",
            web,
            sized(WEB, PHONE, 1281),
            V::Held,
            devices.slow,
        )
        .becomes(slow(
            SlowMeta { mtu: PHONE_MTU, ..meta(SLOW_MTU, WEB, devices.web) },
            &sized(WEB, PHONE, 1281),
        )),
        goes(
            "a request for a client's address",
            web,
            who_has(WEB, v4(PHONE)),
            V::Answered,
            devices.web,
        )
        .becomes(eth(
            mac(PHONE),
            mac(WEB),
            ARP,
            &arp(2, (mac(PHONE), v4(PHONE)), (mac(WEB), v4(WEB))),
        )),
        drops(
            "what is no IP to a client",
            web,
            eth(mac(WEB), mac(PHONE), 0x88b5, &[7; 46]),
            D::NotIp,
        ),
        goes(
            "IPv4 of a host in VXLAN to a client",
            At::Vxlan(BLUE, mapped(BETA_IP)),
            datagram(API, PHONE),
            V::Delivered,
            phone,
        )
        .becomes(to_seal(phone, BLUE, &datagram(API, PHONE))),
        goes(
            "IPv4 of a host in VXLAN to a client, at the underlay",
            At::Underlay,
            from_host(BETA_IP, BLUE, &datagram(API, PHONE)),
            V::Delivered,
            phone,
        )
        .becomes(to_seal(phone, BLUE, &datagram(API, PHONE))),
        goes(
            "IPv4 of a sealed host to a client",
            seal,
            opened(DELTA, BLUE, &datagram(VAULT, PHONE)),
            V::Delivered,
            phone,
        )
        .becomes(to_seal(phone, BLUE, &datagram(VAULT, PHONE))),
        drops(
            "a frame of another host with a client's MAC",
            seal,
            opened(DELTA, BLUE, &datagram(PHONE, WEB)),
            D::SenderMismatch,
        ),
        // Back from the shuttle.
        goes(
            "an error for a client",
            At::Slow,
            slow(to_source, &datagram(WEB, PHONE)),
            V::Delivered,
            phone,
        )
        .becomes(to_seal(phone, BLUE, &datagram(WEB, PHONE))),
        goes(
            "a client's packet once there is a flow",
            At::Slow,
            slow(resend, &datagram(PHONE, WEB)),
            V::SameHost,
            devices.web,
        )
        .becomes(datagram(PHONE, WEB)),
    ]
}

/// `value.tap(change)`: a value with a change.
trait Tap: Sized {
    fn tap(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl Tap for Vec<u8> {}

struct Bench {
    // Before the host, whose folder it has open.
    datapath: Datapath,
    runner: Runner,
    devices: Devices,
    _host: Host,
}

impl Bench {
    fn new(name: &str) -> Option<Self> {
        let mut bench = Self::without_seal(name)?;
        bench.datapath.attach_device(DeviceRole::Seal, bench.devices.seal).unwrap();
        Some(bench)
    }

    /// Nothing seals at its host.
    fn without_seal(name: &str) -> Option<Self> {
        let host = Host::new(name)?;
        let devices = Devices::make(&host);
        let mut datapath = host.open();
        devices.fill(&mut datapath);
        let runner = Runner::new(&datapath, &LIMITS).unwrap();
        Some(Self { datapath, runner, devices, _host: host })
    }

    fn run(&self, at: At, packet: &[u8], gso_size: u32) -> Output {
        let mut input = Input { packet: packet.to_vec(), gso_size, ..Input::default() };
        let (role, ifindex) = match at {
            At::Port(endpoint) => (None, self.devices.of(endpoint)),
            At::Underlay => (Some(DeviceRole::Underlay), self.devices.underlay),
            At::Slow => (Some(DeviceRole::Slow), self.devices.slow),
            At::Seal => (Some(DeviceRole::Seal), self.devices.seal),
            At::Vxlan(vni, sender) => {
                input.ifindex = self.devices.vxlan;
                return self
                    .runner
                    .receive(vni, sender, &input)
                    .expect("the kernel takes the packet");
            }
        };
        input.ifindex = ifindex;
        self.runner
            .run(role, &input)
            .unwrap_or_else(|error| panic!("the kernel refuses {packet:02x?}: {error}"))
    }
}

fn end_of(output: &Output) -> Option<End> {
    match output.verdict()? {
        Verdict::Dropped => output.reason().map(End::Drops),
        verdict => Some(End::Goes(verdict, output.target)),
    }
}

/// The code that goes with a verdict: fail closed everywhere but at the underlay.
fn code_of(end: End) -> u32 {
    match end {
        End::Goes(Verdict::Passed, _) => TC_ACT_OK,
        End::Goes(Verdict::Replicated | Verdict::Absorbed, _) | End::Drops(_) => TC_ACT_SHOT,
        End::Goes(..) => TC_ACT_REDIRECT,
    }
}

#[test]
fn every_packet_ends_as_described_and_every_reason_is_covered() {
    let Some(bench) = Bench::new("fixtures") else { return };
    let fixtures: Vec<_> = [
        at_ports,
        at_the_underlay,
        at_the_vxlan_device,
        at_the_slow_tap,
        at_the_seal_tap,
        at_clients,
    ]
    .into_iter()
    .flat_map(|fixtures| fixtures(bench.devices))
    .collect();

    let mut wrong = Vec::new();
    for Fixture { words, at, frame, gso_size, end, rewritten } in &fixtures {
        let output = bench.run(*at, frame, *gso_size);
        if end_of(&output) != Some(*end) || output.code != code_of(*end) {
            wrong.push(format!(
                "{words} at {at:?}: {end:?} wanted, got {:?} with code {}",
                end_of(&output),
                output.code
            ));
        } else if rewritten.as_ref().is_some_and(|wanted| *wanted != output.packet) {
            wrong.push(format!(
                "{words} at {at:?}: bytes\n  {:02x?} wanted, got\n  {:02x?}",
                rewritten.as_ref().unwrap(),
                output.packet
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), fixtures.len(), wrong.join("\n"));

    let reasons: BTreeSet<_> = fixtures
        .iter()
        .filter_map(|fixture| match fixture.end {
            End::Drops(reason) => Some(reason),
            End::Goes(..) => None,
        })
        .collect();
    // Those that need a silent shuttle, or one that does not seal, have tests of their own.
    let elsewhere = [DropReason::NotServed, DropReason::NoSealDevice];
    let uncovered: Vec<_> = DropReason::ALL
        .iter()
        .filter(|reason| !reasons.contains(reason) && !elsewhere.contains(reason))
        .collect();
    assert!(uncovered.is_empty(), "no fixture for {uncovered:?}");

    let verdicts: BTreeSet<_> = fixtures
        .iter()
        .map(|fixture| match fixture.end {
            End::Goes(verdict, _) => verdict,
            End::Drops(_) => Verdict::Dropped,
        })
        .collect();
    // Counted, never the end of a run.
    let uncovered: Vec<_> = Verdict::ALL
        .iter()
        .filter(|verdict| !verdicts.contains(verdict) && **verdict != Verdict::Resent)
        .collect();
    assert!(uncovered.is_empty(), "no fixture for {uncovered:?}");

    for endpoint in [WEB, DB, ROUTER, LONE, TWIN, MINT, PHONE] {
        // At every port: packets in = delivered + answered + drops, or still with the shuttle.
        let counters = bench.datapath.counters(endpoint).unwrap().unwrap();
        let ends: u64 = Verdict::ALL
            .iter()
            .filter(|verdict| **verdict != Verdict::Resent)
            .map(|verdict| counters.verdict(*verdict))
            .chain(DropReason::ALL.iter().map(|reason| counters.drop(*reason)))
            .sum();
        assert_eq!(
            counters.received_packets + counters.verdict(Verdict::Resent),
            ends,
            "endpoint {endpoint}: {counters:?}"
        );
    }
}

#[test]
fn the_underlay_keeps_what_is_not_ours() {
    let Some(bench) = Bench::new("underlay") else { return };
    let before = bench.datapath.host_counters().unwrap();
    for (words, frame) in not_ours() {
        let output = bench.run(At::Underlay, &frame, 0);
        assert_eq!((output.code, output.verdict), (TC_ACT_OK, 0), "{words}");
        assert_eq!(output.packet, frame, "{words}");
    }
    assert_eq!(bench.datapath.host_counters().unwrap(), before);
}

#[test]
fn a_frame_to_another_host_carries_a_header_that_any_vxlan_device_takes() {
    let Some(bench) = Bench::new("header") else { return };
    for frame in [datagram(WEB, API), datagram6(WEB, API)] {
        let sent = bench.run(At::Port(WEB), &frame, 0).packet;
        let port = u16::from_be_bytes([sent[34], sent[35]]);
        assert!(port >= 0xc000, "source port {port} is not a dynamic one");
        let wanted = eth(
            ALPHA_MAC,
            BETA_MAC,
            IP4,
            &vxlan(ALPHA_IP, BETA_IP, (port, VXLAN_PORT), BLUE, &frame),
        );
        assert_eq!(sent, wanted);
    }
}

#[test]
fn without_the_shuttle_first_packets_drop_and_headers_are_left_to_the_device() {
    let Some(bench) = Bench::new("silent") else { return };
    std::thread::sleep(std::time::Duration::from_millis(2_100));
    let miss = bench.run(At::Port(DB), &datagram(DB, API), 0);
    assert_eq!(end_of(&miss), Some(End::Drops(DropReason::NotServed)));
    let direct = bench.run(At::Port(WEB), &datagram(WEB, API), 0);
    assert_eq!(end_of(&direct), Some(End::Goes(Verdict::Device, BETA)));
    let local = bench.run(At::Port(WEB), &datagram(WEB, DB), 0);
    assert_eq!(end_of(&local), Some(End::Goes(Verdict::SameHost, bench.devices.db)));
    bench.datapath.beat();
    let direct = bench.run(At::Port(WEB), &datagram(WEB, API), 0);
    assert_eq!(end_of(&direct), Some(End::Goes(Verdict::Direct, BETA)));
}

#[test]
fn a_broadcast_reaches_every_other_port_of_its_network_once() {
    let Some(bench) = Bench::new("broadcast") else { return };
    let sent = |endpoint| bench.datapath.counters(endpoint).unwrap().unwrap().sent_packets;
    let ends = [WEB, DB, ROUTER, LONE, TWIN];
    let before = ends.map(sent);
    bench.run(At::Port(WEB), &datagram_to(WEB, BROADCAST), 0);
    let copies: Vec<_> =
        ends.map(sent).iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(copies, [0, 1, 1, 1, 0]);
}

#[test]
fn a_broadcast_reaches_every_sealed_host_and_ports_get_it_as_it_was() {
    let Some(bench) = Bench::new("copies") else { return };
    let at_the_tap = Capture::at("seal-other");
    let at_db = Capture::at("db-other");
    let frame = datagram_to(WEB, BROADCAST);
    bench.run(At::Port(WEB), &frame, 0);
    assert_eq!(at_the_tap.frames(), [to_seal(DELTA, BLUE, &frame)]);
    assert_eq!(at_db.frames(), std::slice::from_ref(&frame));

    let frame = datagram_to(MINT, BROADCAST);
    bench.run(At::Port(MINT), &frame, 0);
    assert_eq!(at_the_tap.frames(), [to_seal(BETA, GREEN, &frame), to_seal(DELTA, GREEN, &frame)]);

    let frame = datagram_to(VAULT, BROADCAST);
    bench.run(At::Seal, &opened(DELTA, BLUE, &frame), 0);
    assert_eq!(at_db.frames(), [frame]);
    assert!(at_the_tap.frames().is_empty(), "never on to other hosts");
}

#[test]
fn without_a_device_for_it_nothing_that_must_be_sealed_leaves() {
    let Some(bench) = Bench::without_seal("unsealed") else { return };
    let output = bench.run(At::Port(WEB), &datagram(WEB, VAULT), 0);
    assert_eq!(end_of(&output), Some(End::Drops(DropReason::NoSealDevice)));
    let at_the_tap = Capture::at("seal-other");
    let output = bench.run(At::Port(MINT), &datagram_to(MINT, BROADCAST), 0);
    assert_eq!(end_of(&output), Some(End::Goes(Verdict::Replicated, GREEN)));
    assert!(at_the_tap.frames().is_empty());
}

#[test]
fn a_flow_that_was_forgotten_is_missed() {
    let Some(mut bench) = Bench::new("forgotten") else { return };
    assert!(bench.datapath.delete_all_flows().unwrap() > 0);
    let output = bench.run(At::Port(WEB), &datagram(WEB, DB), 0);
    assert_eq!(end_of(&output), Some(End::Goes(Verdict::Held, bench.devices.slow)));
}
