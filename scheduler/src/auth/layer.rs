//! The layer in front of all services: works out who calls, turns away what no rule allows, and puts the identity beside
//! the request. Which job, tenant or node the call is about is for the service to check.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use dure_core::units::Time;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap};
use tonic::Status;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::{Layer, Service};

use super::bucket::{Buckets, Rate};
use super::ca;
use super::caller::Caller;
use super::identity::{Credential, Identity, NodeName, Role, Target};
use super::table::{Access, Scope, access, grant};
use super::token::Tokens;
use crate::clock::Clock;
use crate::history::Refusals;
use crate::metrics::Metrics;

/// Who a call without token and certificate is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AuthPolicy {
    /// Nobody: it is turned away.
    Credentials,
    /// The operator with this name. Only where every address that is listened on is a loopback one.
    LocalOperator {
        /// Name of the user.
        user: Box<str>,
    },
}

/// Works out who calls.
#[derive(Clone, Debug)]
pub struct Authenticator {
    tokens: Tokens,
    policy: AuthPolicy,
}

impl Authenticator {
    /// By these tokens, by client certificates, and by `policy` where there is neither.
    pub fn new(tokens: Tokens, policy: AuthPolicy) -> Self {
        Self { tokens, policy }
    }

    /// Who calls: a bearer token decides; without one the client certificate; without both the policy. None is nobody.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` for a token or a certificate that is not accepted: a wrong one is never passed over.
    pub fn identify(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Option<Identity>, Status> {
        if let Some(header) = headers.get(AUTHORIZATION) {
            let token = header
                .to_str()
                .ok()
                .and_then(bearer)
                .ok_or_else(|| Status::unauthenticated("the authorization header must read \"Bearer TOKEN\""))?;
            let found = self.tokens.find(token).map_err(|bad| Status::unauthenticated(bad.to_string()))?;
            return Ok(Some(found));
        }
        let connection = extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
        if let Some(certificate) =
            connection.and_then(|info| info.peer_certs()).and_then(|chain| chain.first().cloned())
        {
            let ca::NodeCertificate { node, issued } = ca::node_of_certificate(&certificate)
                .ok_or_else(|| Status::unauthenticated("the client certificate names no node; join the node again"))?;
            self.tokens.check_node(&node, issued).map_err(|revoked| Status::unauthenticated(revoked.to_string()))?;
            return Ok(Some(Identity {
                user: node.as_str().into(),
                role: Role::Agent,
                missions: Vec::new(),
                node: Some(NodeName::exactly(&node)),
                credential: Credential::Certificate { issued },
            }));
        }
        Ok(match &self.policy {
            AuthPolicy::Credentials => None,
            AuthPolicy::LocalOperator { user } => Some(local_operator(user)),
        })
    }

    /// The identity of a call to `path`, if it may reach a service at all. None: the method is public.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` for a method without a rule, `UNAUTHENTICATED` or `PERMISSION_DENIED`.
    pub fn admit(&self, path: &str, headers: &HeaderMap, extensions: &Extensions) -> Result<Option<Identity>, Status> {
        let Some(needed) = access(path) else {
            return Err(Status::unimplemented(format!("this server has no method {path}")));
        };
        if needed == Access::Public {
            return Ok(None);
        }
        let identity = self.identify(headers, extensions)?.ok_or_else(|| {
            Status::unauthenticated("this call carries no credential: send the header \"authorization: Bearer TOKEN\"")
        })?;
        match needed {
            Access::Needs(verb) if grant(identity.role, verb) == Scope::Nothing => {
                Err(Status::permission_denied(identity.denied(verb, Target::Cluster).to_string()))
            }
            Access::Needs(_) | Access::Known | Access::Public => Ok(Some(identity)),
        }
    }
}

/// `RESOURCE_EXHAUSTED` with the time after which to come back.
fn too_fast(after_ms: u64) -> Status {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(after_ms)));
    let message = format!(
        "this caller asks more often than it may (limits.calls_per_second); come back in {after_ms} ms, and submit many jobs in \
         one call"
    );
    Status::with_error_details(tonic::Code::ResourceExhausted, message, details)
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn local_operator(user: &str) -> Identity {
    Identity {
        user: user.into(),
        role: Role::Operator,
        missions: Vec::new(),
        node: None,
        credential: Credential::Local,
    }
}

/// The layer.
#[derive(Clone)]
pub struct Guard {
    authenticator: Arc<Authenticator>,
    metrics: Arc<Metrics>,
    clock: Clock,
    refusals: Refusals,
    buckets: Option<Arc<Mutex<Buckets>>>,
}

impl Guard {
    /// Guards with `authenticator` and counts every call in `metrics`.
    pub fn new(authenticator: Authenticator, metrics: Arc<Metrics>) -> Self {
        let (clock, refusals) = (Clock::start(Time(0)), Refusals::default());
        Self { authenticator: Arc::new(authenticator), metrics, clock, refusals, buckets: None }
    }

    /// Counts what is refused in `refusals` as well.
    pub fn counting(self, refusals: Refusals) -> Self {
        Self { refusals, ..self }
    }

    /// Turns away who asks more than `rate`.
    pub fn limiting(self, rate: Option<Rate>) -> Self {
        Self { buckets: rate.map(|rate| Arc::new(Mutex::new(Buckets::new(rate)))), ..self }
    }

    /// Who calls, if the call may reach a service; the caller is known either way.
    fn admit<B>(&self, path: &str, request: &http::Request<B>) -> (Caller, Result<Option<Identity>, Status>) {
        let admitted = self.authenticator.admit(path, request.headers(), request.extensions());
        let identity = admitted.as_ref().ok().and_then(Option::as_ref);
        let caller = Caller::arriving(identity, path, request.extensions());
        let is_public = admitted.as_ref().is_ok_and(Option::is_none);
        let admitted = match self.buckets.as_deref().filter(|_| !is_public) {
            Some(buckets) => {
                let taken = buckets.lock().unwrap_or_else(PoisonError::into_inner).take(&caller, self.clock.now().0);
                taken.map_err(too_fast).and(admitted)
            }
            None => admitted,
        };
        (caller, admitted)
    }

    /// Counts how a call was answered.
    fn answered(&self, label: &str, caller: &Caller, status: Option<&Status>) {
        self.metrics.called(label, status.map_or(tonic::Code::Ok, Status::code));
        if let Some(status) = status {
            self.refusals.count(caller, status.code(), status.message(), self.clock.now().0);
        }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, guard: self.clone() }
    }
}

/// A service behind the layer.
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: Guard,
}

impl<S, B, R> Service<http::Request<B>> for Guarded<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>, Error = Infallible>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = http::Response<R>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let guard = self.guard.clone();
        let (caller, admitted) = guard.admit(&path, &request);
        match admitted {
            Ok(identity) => {
                request.extensions_mut().insert(caller.clone());
                if let Some(identity) = identity {
                    request.extensions_mut().insert(identity);
                }
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let answer = answer.await?;
                    // What fails at once says so in its headers; what fails in mid-stream has begun well.
                    guard.answered(&path, &caller, Status::from_header_map(answer.headers()).as_ref());
                    Ok(answer)
                })
            }
            Err(status) => {
                // The path of a method that does not exist is the caller's invention and no label.
                let label = if access(&path).is_some() { path.as_str() } else { "unknown" };
                guard.answered(label, &caller, Some(&status));
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}
