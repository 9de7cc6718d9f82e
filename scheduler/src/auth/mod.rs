//! Who calls, and what they may do: a bearer token or a client certificate in, an `Identity` out.
//!
//! `token` knows the tokens, `ca` is the cluster's own certificate authority, `table` says which role may do what,
//! `layer` puts the identity beside every call before a service sees it. An identity never comes from the content of a
//! request, and what no rule allows is denied.

pub mod bucket;
pub mod ca;
pub mod caller;
pub mod identity;
pub mod layer;
pub mod table;
pub mod token;

pub use ca::{Authority, CaError};
pub use caller::{Caller, caller};
pub use identity::{Credential, Denied, Identity, NodeName, Role, Target, Visible, node_of, of};
pub use layer::{AuthPolicy, Authenticator, Guard};
pub use table::{Access, Scope, Verb};
pub use token::{TokenError, Tokens};
