//! What the operator says: flags over environment over defaults, all mistakes at once, before
//! anything is opened.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use weft_kernel::Limits;

/// What the command is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Move packets.
    Run(Config),
    /// Print what the kernel has.
    Doctor {
        config: Config,
        json: bool,
    },
    /// Remove everything that was made in the kernel.
    Cleanup(Config),
    Help,
}

/// Where the metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) socket: PathBuf,
    pub(crate) admit_uid: u32,
    pub(crate) netns_socket: PathBuf,
    pub(crate) bpffs: PathBuf,
    pub(crate) state_folder: PathBuf,
    pub(crate) tun_node: PathBuf,
    pub(crate) vxlan_port: u16,
    pub(crate) prefix: String,
    pub(crate) flow_idle_s: u32,
    pub(crate) limits: Limits,
    pub(crate) metrics_listen: Option<Listen>,
    pub(crate) trace_file: Option<PathBuf>,
    pub(crate) host_name: String,
}

impl Config {
    /// Name of the TAP by which first packets come.
    pub(crate) fn slow_device(&self) -> String {
        format!("{}-slow", self.prefix)
    }

    /// Name of the TAP by which frames go to be sealed and come back opened.
    pub(crate) fn seal_device(&self) -> String {
        format!("{}-seal", self.prefix)
    }

    /// Name of the VXLAN device.
    pub(crate) fn vxlan_device(&self) -> String {
        format!("{}-vx", self.prefix)
    }

    /// Name of the bridge that stays down.
    pub(crate) fn bridge_device(&self) -> String {
        format!("{}-br", self.prefix)
    }

    /// Name of a port's device on the host's side.
    pub(crate) fn port_device(&self, endpoint_id: u32) -> String {
        format!("{}{endpoint_id}", self.prefix)
    }

    /// Whether a device's name is one that [`Config::port_device`] gives.
    pub(crate) fn is_port_device(&self, name: &str) -> bool {
        let id = name.strip_prefix(&self.prefix).unwrap_or_default();
        !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())
    }
}

struct Variable {
    flag: &'static str,
    name: &'static str,
    value: &'static str,
    default: Option<&'static str>,
    help: &'static str,
}

const VARIABLES: &[Variable] = &[
    variable(
        "socket",
        "WEFT_SHUTTLE_SOCKET",
        "PATH",
        Some("/run/weft/shuttle.sock"),
        "where the forwarder reaches it",
    ),
    variable(
        "admit-uid",
        "WEFT_SHUTTLE_ADMIT_UID",
        "UID",
        None,
        "the only user who is served, the forwarder's",
    ),
    variable(
        "netns-socket",
        "WEFT_SHUTTLE_NETNS_SOCKET",
        "PATH",
        Some("/run/weft/netns.sock"),
        "where weft-netns listens",
    ),
    variable(
        "bpffs",
        "WEFT_SHUTTLE_BPFFS",
        "FOLDER",
        Some("/sys/fs/bpf/weft"),
        "a folder of its own in a bpffs, for what must outlive it",
    ),
    variable(
        "state-folder",
        "WEFT_SHUTTLE_STATE_FOLDER",
        "FOLDER",
        Some("/run/weft/shuttle"),
        "what it knows of its ports; goes with the machine's memory",
    ),
    variable(
        "tun-node",
        "WEFT_SHUTTLE_TUN_NODE",
        "PATH",
        Some("/dev/net/tun"),
        "the device node that makes TAPs; its user must be able to open it",
    ),
    variable(
        "vxlan-port",
        "WEFT_SHUTTLE_VXLAN_PORT",
        "PORT",
        Some("4789"),
        "UDP port between hosts, the same on all",
    ),
    variable(
        "device-prefix",
        "WEFT_SHUTTLE_DEVICE_PREFIX",
        "NAME",
        Some("wl"),
        "how the names of its devices begin, at most 5 letters",
    ),
    variable(
        "flow-idle",
        "WEFT_SHUTTLE_FLOW_IDLE_S",
        "SECONDS",
        Some("600"),
        "a flow without a packet for so long is forgotten",
    ),
    variable(
        "flows-max",
        "WEFT_SHUTTLE_FLOWS_MAX",
        "COUNT",
        Some("131072"),
        "flows in force; 104 bytes of kernel memory each",
    ),
    variable(
        "endpoints-max",
        "WEFT_SHUTTLE_ENDPOINTS_MAX",
        "COUNT",
        Some("65536"),
        "endpoints of all networks that have a port here",
    ),
    variable("ports-max", "WEFT_SHUTTLE_PORTS_MAX", "COUNT", Some("4096"), "ports of this host"),
    variable(
        "metrics-listen",
        "WEFT_METRICS_LISTEN",
        "ADDRESS",
        Some("none"),
        "host:port or unix:PATH for Prometheus, none for no metrics",
    ),
    variable(
        "trace-file",
        "WEFT_TRACE_FILE",
        "PATH",
        Some("none"),
        "append a line for each traced call, none for no traces",
    ),
    variable("host-name", "WEFT_HOST_NAME", "NAME", Some("none"), "named in log lines and traces"),
];

const fn variable(
    flag: &'static str,
    name: &'static str,
    value: &'static str,
    default: Option<&'static str>,
    help: &'static str,
) -> Variable {
    Variable { flag, name, value, default, help }
}

/// What `--help` prints.
pub(crate) fn usage() -> String {
    let mut text = "\
Moves the packets of this host's virtual networks.

Usage: weft-shuttle [--doctor [--json] | --cleanup] [FLAG VALUE]...

  --doctor     print what the kernel has of what is needed, and exit; --json for programs
  --cleanup    remove all devices, programs and tables that it made, and exit
  --help       this

Flags, each with the variable that may stand for it:
"
    .to_owned();
    for Variable { flag, name, value, default, help } in VARIABLES {
        let default = default.map_or("required".to_owned(), |default| format!("default {default}"));
        // A String takes everything.
        let _ = writeln!(text, "  --{flag} {value}\n        {help} ({name}, {default})");
    }
    text.push_str(
        "
It needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF, and no other privilege. It ends with 64 when called wrongly, with 69 when the
machine lacks something, and with 70 on a defect.",
    );
    text
}

/// Reads flags and environment.
///
/// Fails with every mistake there is.
pub(crate) fn parse(
    arguments: impl Iterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, Vec<String>> {
    let mut mistakes = Vec::new();
    let mut flags: HashMap<&str, OsString> = HashMap::new();
    let (mut is_doctor, mut is_json, mut is_cleanup) = (false, false, false);
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(Command::Help),
            Some("--doctor") => is_doctor = true,
            Some("--json") => is_json = true,
            Some("--cleanup") => is_cleanup = true,
            text => {
                let flag = text.and_then(|text| text.strip_prefix("--"));
                match VARIABLES.iter().find(|variable| Some(variable.flag) == flag) {
                    Some(variable) => match arguments.next() {
                        Some(value) => drop(flags.insert(variable.flag, value)),
                        None => mistakes.push(format!("--{} has no value", variable.flag)),
                    },
                    None => mistakes.push(format!("{} is no flag", argument.display())),
                }
            }
        }
    }
    // What only looks needs no forwarder.
    let is_run = !is_doctor && !is_cleanup;
    let mut reader = Reader { flags, environment, mistakes, is_run };
    let config = Config {
        socket: reader.path("socket"),
        admit_uid: reader.number("admit-uid", 0, u32::MAX),
        netns_socket: reader.path("netns-socket"),
        bpffs: reader.path("bpffs"),
        state_folder: reader.path("state-folder"),
        tun_node: reader.path("tun-node"),
        vxlan_port: u16::try_from(reader.number("vxlan-port", 1, 65_535)).unwrap_or_default(),
        prefix: reader.prefix(),
        flow_idle_s: reader.number("flow-idle", 1, 86_400),
        limits: Limits {
            flows: reader.number("flows-max", 1, 1 << 24),
            endpoints: reader.number("endpoints-max", 1, 1 << 22),
            ports: reader.number("ports-max", 1, 1 << 16),
            ..Limits::default()
        },
        metrics_listen: reader.listen("metrics-listen"),
        trace_file: Some(reader.text("trace-file"))
            .filter(|text| text != "none")
            .map(PathBuf::from),
        host_name: Some(reader.text("host-name")).filter(|text| text != "none").unwrap_or_default(),
    };
    if is_doctor && is_cleanup {
        reader.mistakes.push("--doctor and --cleanup exclude each other".to_owned());
    }
    if is_json && !is_doctor {
        reader.mistakes.push("--json goes with --doctor".to_owned());
    }
    if !reader.mistakes.is_empty() {
        return Err(reader.mistakes);
    }
    Ok(match (is_doctor, is_cleanup) {
        (true, _) => Command::Doctor { config, json: is_json },
        (_, true) => Command::Cleanup(config),
        _ => Command::Run(config),
    })
}

struct Reader<F> {
    flags: HashMap<&'static str, OsString>,
    environment: F,
    mistakes: Vec<String>,
    is_run: bool,
}

impl<F: Fn(&str) -> Option<OsString>> Reader<F> {
    fn value(&mut self, flag: &'static str) -> Option<(String, OsString)> {
        let variable = VARIABLES
            .iter()
            .find(|variable| variable.flag == flag)
            .expect("every flag has a variable");
        if let Some(value) = self.flags.get(flag) {
            return Some((format!("--{flag}"), value.clone()));
        }
        let given = (self.environment)(variable.name).filter(|value| !value.is_empty());
        if let Some(value) = given.or(variable.default.map(OsString::from)) {
            return Some((variable.name.to_owned(), value));
        }
        if self.is_run {
            self.mistakes
                .push(format!("--{flag} (or {}) is missing: {}", variable.name, variable.help));
        }
        None
    }

    fn text(&mut self, flag: &'static str) -> String {
        self.value(flag).map(|(_, value)| value.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn path(&mut self, flag: &'static str) -> PathBuf {
        let Some((name, value)) = self.value(flag) else { return PathBuf::new() };
        let path = PathBuf::from(value);
        if !path.is_absolute() {
            self.mistakes.push(format!("{name}: {} is no absolute path", path.display()));
        }
        path
    }

    fn number(&mut self, flag: &'static str, min: u32, max: u32) -> u32 {
        let Some((name, value)) = self.value(flag) else { return 0 };
        let number = value
            .to_str()
            .and_then(|text| text.parse().ok())
            .filter(|number| (min..=max).contains(number));
        number.unwrap_or_else(|| {
            self.mistakes
                .push(format!("{name}: {} is no number in {min}..={max}", value.display()));
            0
        })
    }

    /// Device names have 15 bytes, and an endpoint's number takes ten of them.
    fn prefix(&mut self) -> String {
        let prefix = self.text("device-prefix");
        let is_name =
            (1..=5).contains(&prefix.len()) && prefix.bytes().all(|byte| byte.is_ascii_lowercase());
        if !is_name {
            self.mistakes
                .push(format!("--device-prefix: {prefix:?} is not of 1 to 5 lower-case letters"));
        }
        prefix
    }

    fn listen(&mut self, flag: &'static str) -> Option<Listen> {
        let (name, value) = self.value(flag)?;
        let text = value.to_string_lossy();
        match (text.as_ref(), text.strip_prefix("unix:"), text.parse()) {
            ("none", ..) => None,
            (_, Some(path), _) => Some(Listen::Unix(path.into())),
            (_, _, Ok(address)) => Some(Listen::Tcp(address)),
            _ => {
                self.mistakes
                    .push(format!("{name}: {text} is neither ADDRESS:PORT nor unix:PATH nor none"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str, environment: &[(&str, &str)]) -> Result<Command, Vec<String>> {
        parse(words.split_whitespace().map(OsString::from), |name| {
            environment
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(*value))
        })
    }

    #[test]
    fn a_flag_comes_before_the_environment() {
        let environment = [("WEFT_SHUTTLE_ADMIT_UID", "1000"), ("WEFT_SHUTTLE_VXLAN_PORT", "4790")];
        let Ok(Command::Run(config)) = parse_words("--admit-uid 1001", &environment) else {
            panic!()
        };
        assert_eq!((config.admit_uid, config.vxlan_port), (1001, 4790));
        assert_eq!(config.metrics_listen, None);
        assert_eq!(config.slow_device(), "wl-slow");
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mistakes =
            parse_words("--vxlan-port 0 --bpffs here --metrics-listen x --what", &[]).unwrap_err();
        assert_eq!(mistakes.len(), 5, "{mistakes:?}");
    }

    #[test]
    fn looking_and_cleaning_need_no_forwarder() {
        assert!(matches!(
            parse_words("--doctor --json", &[]),
            Ok(Command::Doctor { json: true, .. })
        ));
        assert!(matches!(parse_words("--cleanup", &[]), Ok(Command::Cleanup(_))));
        assert!(parse_words("--doctor --cleanup", &[]).is_err());
        assert!(parse_words("--json", &[("WEFT_SHUTTLE_ADMIT_UID", "1")]).is_err());
    }

    #[test]
    fn help_names_every_variable() {
        let text = usage();
        assert!(VARIABLES.iter().all(|variable| text.contains(variable.name)));
    }

    #[test]
    fn only_numbered_devices_are_ports() {
        let Ok(Command::Cleanup(config)) = parse_words("--cleanup", &[]) else { panic!() };
        assert!(config.is_port_device("wl17"));
        assert!(
            !config.is_port_device("wl-slow")
                && !config.is_port_device("wl")
                && !config.is_port_device("wlan0")
        );
    }
}
