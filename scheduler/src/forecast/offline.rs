//! The same question to a journal, without its scheduler.

use dure_proto::v1;
use tonic::Status;

use super::Question;
use crate::recorded::remembered;
use crate::source::Source;

/// Whoever asks a journal is its operator.
const USER: &str = "operator";

/// What would come of a change, from where a journal ends; it takes as long as it takes.
///
/// # Errors
/// As the call's; `UNAVAILABLE` when the journal cannot be read.
pub fn offline<S: Source + ?Sized>(source: &S, request: v1::WhatIfRequest) -> Result<v1::WhatIfResponse, Status> {
    let question = Question::read(request, USER)?;
    if question.last.is_some() {
        return question.replay(source, &|| true);
    }
    let unread = |err| Status::unavailable(format!("the journal cannot be read: {err}"));
    let (cluster, until, learned) = remembered(source).map_err(unread)?;
    question.answer(&cluster, until, &learned, &|| true)
}
