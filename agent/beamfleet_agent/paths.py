"""Owns where everything of the device side lies, as strings derived from one ROOT; never touches the disk.

ROOT is "" on a device and DIR for a device in a directory. Everything below /var/lib/beamfleet is one mount: renames
and links across two fail.
"""


class Paths:
    """The files and directories of one application below `root`; all absolute if `root` is "" or absolute."""

    __slots__ = (
        "agent_pid", "agent_sock", "app_dir", "app_env", "authorities", "bearings", "boot", "ca", "cert", "current",
        "data", "doorbell", "dump", "etc", "given", "identity", "journal", "key", "launcher_conf", "lib", "link_sock",
        "lock", "next_key", "next_pair", "pair", "provision", "provisioned", "proxy_secret", "requests", "root", "run",
        "run_app", "seed", "settings", "slots", "staging", "token", "tried", "trust", "trust_root", "var",
    )  # fmt: skip

    def __init__(self, root: str = "", app: str = "main") -> None:
        root = root.rstrip("/")
        self.root = root
        self.etc = f"{root}/etc/beamfleet"
        self.settings = f"{self.etc}/agent.toml"
        self.launcher_conf = f"{self.etc}/launcher.conf"
        self.ca = f"{self.etc}/ca.pem"
        self.trust_root = f"{self.etc}/root.json"
        self.app_env = f"{self.etc}/app.env"
        self.lib = f"{root}/usr/lib/beamfleet"
        self.var = f"{root}/var/lib/beamfleet"
        self.journal = f"{self.var}/journal"
        self.lock = f"{self.var}/agent.lock"
        self.trust = f"{self.var}/trust"
        self.authorities = f"{self.trust}/authorities.pem"
        self.bearings = f"{self.trust}/bearings"
        self.seed = f"{self.var}/seed.bundle"
        self.provision = f"{self.etc}/provision.json"
        self.provisioned = f"{self.var}/provisioned"
        self.given = f"{self.etc}/given"
        self.identity = f"{self.var}/identity"
        self.pair = f"{self.identity}/pair.pem"
        self.next_pair = f"{self.identity}/next.pem"
        self.next_key = f"{self.identity}/next.key"
        self.tried = f"{self.identity}/tried"
        self.key = f"{self.identity}/key.pem"
        self.cert = f"{self.identity}/cert.pem"
        self.token = f"{self.identity}/token"
        self.proxy_secret = f"{self.identity}/proxy"
        self.app_dir = f"{self.var}/apps/{app}"
        self.slots = f"{self.app_dir}/slots"
        self.staging = f"{self.app_dir}/staging"
        self.current = f"{self.app_dir}/current"
        self.boot = f"{self.app_dir}/boot"
        self.requests = f"{self.app_dir}/requests"
        self.data = f"{self.app_dir}/data"
        self.dump = f"{self.app_dir}/dump"
        self.run = f"{root}/var/run/beamfleet" if root else "/run/beamfleet"  # DIR/run is the script
        self.run_app = f"{self.run}/{app}"
        self.agent_pid = f"{self.run}/agent.pid"
        self.agent_sock = f"{self.run}/agent.sock"
        self.doorbell = f"{self.run_app}/doorbell"
        self.link_sock = f"{self.run_app}/app/link.sock"

    def slot(self, slot_id: str) -> str:
        """The directory of a slot."""
        return f"{self.slots}/{slot_id}"
