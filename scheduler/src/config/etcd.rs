//! Settings of the replicated journal.

use std::path::PathBuf;
use std::time::Duration;

use dure_core::units::Span;
use serde::Deserialize;
use tonic::transport::Uri;

use super::{Config, ConfigError, bad, span};
use crate::etcd::EtcdConfig;

/// The longest lease: nobody leads for so long after the leader's node has died.
const MAX_LEASE: Span = Span::seconds(60);

/// Where etcd is, and for how long a leader may be silent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdSettings {
    /// Addresses of the members.
    pub endpoints: Vec<String>,
    /// What every key begins with.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// A leader that etcd has not heard for so long leads no more; whole seconds.
    #[serde(default = "default_lease", deserialize_with = "span::required")]
    pub lease: Span,
    /// Authority that signed the members' certificates, PEM.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Our own certificate, PEM.
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// Its key, PEM.
    #[serde(default)]
    pub key: Option<PathBuf>,
}

fn default_prefix() -> String {
    "/dure".to_owned()
}

fn default_lease() -> Span {
    Span::seconds(2)
}

impl EtcdSettings {
    /// Its files, to be made absolute.
    pub(super) fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.ca.iter_mut().chain(self.cert.iter_mut()).chain(self.key.iter_mut())
    }

    /// For the way to etcd.
    pub fn connection(&self) -> EtcdConfig {
        EtcdConfig {
            endpoints: self.endpoints.clone(),
            prefix: self.prefix.clone(),
            ca: self.ca.clone(),
            identity: self.cert.clone().zip(self.key.clone()),
        }
    }

    /// The lease.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease.0)
    }
}

impl Config {
    pub(super) fn check_etcd(&self) -> Result<(), ConfigError> {
        let Some(etcd) = &self.etcd else {
            return match &self.advertise {
                None => Ok(()),
                Some(address) => {
                    Err(bad("advertise", address, "only among several schedulers: add [etcd], or remove it"))
                }
            };
        };
        if etcd.endpoints.is_empty() {
            return Err(bad("etcd.endpoints", &etcd.endpoints, "name the members, as in [\"http://10.0.0.1:2379\"]"));
        }
        for endpoint in &etcd.endpoints {
            let scheme = endpoint.parse::<Uri>().ok().and_then(|uri| uri.scheme_str().map(str::to_owned));
            match scheme.as_deref() {
                Some("https") if etcd.ca.is_none() => {
                    return Err(bad(
                        "etcd.ca",
                        format_args!("absent"),
                        "name the authority of the members' certificates",
                    ));
                }
                Some("http" | "https") => {}
                _ => return Err(bad("etcd.endpoints", endpoint, "write http://host:2379 or https://host:2379")),
            }
        }
        if !etcd.prefix.starts_with('/') || etcd.prefix.trim_end_matches('/').is_empty() {
            return Err(bad("etcd.prefix", &etcd.prefix, "begin with '/' and name this cluster, as in \"/dure\""));
        }
        if etcd.lease < Span::seconds(1) || etcd.lease > MAX_LEASE || etcd.lease.0 % 1000 != 0 {
            return Err(bad("etcd.lease", etcd.lease, "use whole seconds, 1s to 60s"));
        }
        if etcd.cert.is_some() != etcd.key.is_some() {
            return Err(bad("etcd.cert", &etcd.cert, "set cert and key together, or neither"));
        }
        let scheme = if self.uses_tls() { "https" } else { "http" };
        match self.advertise.as_ref().map(|address| (address, address.parse::<Uri>())) {
            Some((_, Ok(uri))) if uri.scheme_str() == Some(scheme) && uri.port().is_some() => Ok(()),
            Some((address, _)) => {
                Err(bad("advertise", address, format!("write {scheme}://name:port, as clients reach it")))
            }
            None => Err(bad("advertise", format_args!("absent"), "say where clients and agents reach this scheduler")),
        }
    }
}
