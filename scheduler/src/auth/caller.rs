//! Who calls, as the audit names it: travels beside a mutation to the turn that writes it down.

use std::net::IpAddr;

use http::Extensions;
use tonic::Request;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};

use super::identity::Identity;

/// A caller.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Caller {
    /// Name of the user; empty for somebody without a credential.
    pub user: Box<str>,
    /// In which role.
    pub role: &'static str,
    /// Address of the other end of the connection; empty where there is none.
    pub origin: Box<str>,
    /// What is called, as `Jobs/Cancel`.
    pub method: Box<str>,
    /// Why, in the caller's own words.
    pub reason: Box<str>,
}

impl Caller {
    /// The scheduler itself, which does `what`.
    pub fn scheduler(what: &str) -> Self {
        Self { user: "scheduler".into(), role: "scheduler", method: what.into(), ..Self::default() }
    }

    /// A call to `path`, as the layer sees it.
    pub(super) fn arriving(identity: Option<&Identity>, path: &str, extensions: &Extensions) -> Self {
        let method = path.rsplit_once('.').map_or(path, |(_, method)| method);
        Self {
            user: identity.map_or_else(Box::default, |identity| identity.user.clone()),
            role: identity.map_or("", |identity| identity.role.name()),
            origin: origin(extensions).map_or_else(Box::default, |origin| origin.to_string().into()),
            method: method.into(),
            reason: Box::default(),
        }
    }

    /// The same, for the reason that the caller gives.
    pub fn because(self, reason: &str) -> Self {
        Self { reason: reason.into(), ..self }
    }
}

fn origin(extensions: &Extensions) -> Option<IpAddr> {
    let plain = extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    let over_tls = || extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?.get_ref().remote_addr();
    plain.or_else(over_tls).map(|address| address.ip().to_canonical())
}

/// The caller, whom the layer has put beside the request.
pub fn caller<T>(request: &Request<T>) -> Caller {
    request.extensions().get::<Caller>().cloned().unwrap_or_default()
}
