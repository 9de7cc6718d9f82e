//! All schedulers of a cluster sign with the same authority: its digest lies in etcd, its key never does.

use std::time::Duration;

use dure_proto::etcd::{TxnRequest, response_op::Response};
use sha2::{Digest as _, Sha256};

use crate::auth::Authority;
use crate::etcd::{Etcd, Patience};
use crate::journal::replicated::{created_at, get, put};
use crate::start::StartError;

/// How long etcd may be silent when a scheduler starts.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes the authority's digest down where it is the first, else refuses another one.
pub(super) async fn agree(etcd: &Etcd, authority: &Authority) -> Result<(), StartError> {
    let ours = hex::encode(Sha256::digest(authority.pem()));
    let key = etcd.keys().authority();
    let request = TxnRequest {
        compare: vec![created_at(key.clone(), 0)],
        success: vec![put(key.clone(), ours.clone().into_bytes())],
        failure: vec![get(key)],
    };
    let asking = etcd.clone();
    let asked = etcd.spawn(async move { asking.txn(request, Patience::of(PATIENCE)).await }).await;
    let answer = asked.map_err(|err| StartError::Stopped(err.to_string()))?;
    let answer = answer.map_err(|err| StartError::Stopped(err.to_string()))?;
    let theirs = answer.responses.iter().find_map(|answer| match &answer.response {
        Some(Response::ResponseRange(range)) => range.kvs.first().map(|found| found.value.clone()),
        Some(Response::ResponsePut(_) | Response::ResponseDeleteRange(_)) | None => None,
    });
    if answer.succeeded || theirs.is_some_and(|theirs| theirs == ours.as_bytes()) {
        return Ok(());
    }
    let why = "another scheduler of this cluster signs with another authority: copy data_dir/ca from the one that was started \
               first, then start this one again";
    Err(StartError::Refused { what: "data_dir/ca".to_owned(), why: why.to_owned() })
}
