//! Spent one-time tokens, where several schedulers share them: in etcd, one key per token.

use std::time::Duration;

use dure_proto::etcd::{TxnRequest, response_op::Response};

use crate::auth::token::{Spend, TokenDigest, TokenError};
use crate::etcd::{Etcd, Patience};
use crate::journal::replicated::{created_at, get, put};

/// How long it may take to write one down.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes spent tokens down in etcd.
pub(super) fn in_etcd(etcd: &Etcd) -> Spend {
    let etcd = etcd.clone();
    Box::new(move |digest: TokenDigest, node: &str, key: [u8; 32]| {
        let at = etcd.keys().spent_token(&digest.to_string());
        let on = format!("{node} {}", hex::encode(key)).into_bytes();
        let request = TxnRequest {
            compare: vec![created_at(at.clone(), 0)],
            success: vec![put(at.clone(), on.clone())],
            failure: vec![get(at)],
        };
        let asking = etcd.clone();
        let answer = etcd
            .block(async move { asking.txn(request, Patience::of(PATIENCE)).await })
            .map_err(|err| TokenError::Shared(err.to_string()))?;
        // Spent before: on the same node and key it may be asked for again.
        let before = answer.responses.iter().find_map(|answer| match &answer.response {
            Some(Response::ResponseRange(range)) => range.kvs.first().map(|found| found.value.clone()),
            Some(Response::ResponsePut(_) | Response::ResponseDeleteRange(_)) | None => None,
        });
        Ok(answer.succeeded || before.is_some_and(|before| before == on))
    })
}
