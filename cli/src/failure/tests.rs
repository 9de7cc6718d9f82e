use std::time::Duration;

use dure_proto::v1::{
    self,
    tenants_server::{Tenants, TenantsServer},
};
use expect_test::{Expect, expect};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response};
use tonic_types::ErrorDetails;

use super::*;
use crate::{
    context::{Context, Flags},
    show::{Format, Out},
    tenants::{self, PauseArgs, QuotaCommand, UsageArgs},
};

/// A scheduler that refuses everything, each call in its own way.
struct Refusing;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Tenants for Refusing {
    async fn list(&self, request: Request<v1::ListTenantsRequest>) -> Answer<v1::ListTenantsResponse> {
        let bearer = request.metadata().get("authorization").map(|value| value.to_str().unwrap_or_default().to_owned());
        Err(Status::unauthenticated(format!("no such token: {bearer:?}")))
    }

    async fn set(&self, _: Request<v1::SetTenantRequest>) -> Answer<v1::Tenant> {
        Err(Status::unimplemented(""))
    }

    async fn carry_budget(&self, _: Request<v1::CarryBudgetRequest>) -> Answer<v1::Tenant> {
        Err(Status::unimplemented(""))
    }

    async fn cancel_dated_quota(&self, _: Request<v1::CancelDatedQuotaRequest>) -> Answer<v1::Tenant> {
        Err(Status::unimplemented(""))
    }

    async fn pause(&self, request: Request<v1::PauseRequest>) -> Answer<v1::PauseResponse> {
        let tenant = request.into_inner().tenant;
        let details = ErrorDetails::with_bad_request_violation("tenant", "one of: fusion, solar");
        Err(Status::with_error_details(Code::NotFound, format!("tenant {tenant:?} does not exist"), details))
    }

    async fn resume(&self, _: Request<v1::ResumeRequest>) -> Answer<v1::PauseResponse> {
        Err(Status::with_error_details(
            Code::Unavailable,
            "16384 calls wait",
            ErrorDetails::with_retry_info(Some(Duration::from_millis(1_500))),
        ))
    }

    async fn usage(&self, _: Request<v1::UsageRequest>) -> Answer<v1::UsageResponse> {
        Err(Status::permission_denied("auditors may read, members of fusion may not: ask your PD"))
    }
}

async fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder().add_service(TenantsServer::new(Refusing)).serve_with_incoming(incoming),
    );
    format!("http://{address}")
}

fn context(server: &str) -> Context {
    Context::find(&Flags { server: Some(server.to_owned()), ..Flags::default() }).expect("no files")
}

fn check(result: Result<(), Failure>, code: u8, expected: Expect) {
    let failure = result.expect_err("refused");
    expected.assert_eq(&failure.text());
    assert_eq!(failure.exit_code(), code);
}

#[tokio::test]
async fn refusals_say_what_is_wrong_where_and_what_helps() {
    let context = context(&server().await);
    let out = Out::new(Format::Table);
    let pause = || PauseArgs::of("fusoin");
    check(
        tenants::pause(pause(), true, &context, out).await,
        1,
        expect![[r#"
            error: tenant "fusoin" does not exist
              field: tenant
              remedy: one of: fusion, solar"#]],
    );
    check(
        tenants::pause(pause(), false, &context, out).await,
        1,
        expect![[r#"
            error: 16384 calls wait
              remedy: try again in 1.5s"#]],
    );
    check(
        tenants::usage(UsageArgs::default(), &context, out).await,
        1,
        expect!["error: auditors may read, members of fusion may not: ask your PD"],
    );
    check(
        tenants::quota(
            QuotaCommand::Show { tenant: String::new(), budget: false, share: false, caps: false },
            &context,
            out,
        )
        .await,
        1,
        expect![[r#"
            error: no such token: None
              remedy: name the file with your token: --token-file FILE, or DURE_TOKEN_FILE"#]],
    );
}

#[tokio::test]
async fn the_token_travels_in_every_call() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "  secret-7\n").expect("writes");
    let flags = Flags { server: Some(server().await), token_file: Some(file.path().into()), ca: None };
    let context = Context::find(&flags).expect("no files");
    let show = QuotaCommand::Show { tenant: String::new(), budget: false, share: false, caps: false };
    let failure = tenants::quota(show, &context, Out::new(Format::Table)).await.expect_err("refused");
    assert!(failure.text().contains("Bearer secret-7"), "{}", failure.text());
}

#[tokio::test]
async fn nobody_there_is_another_exit_code_and_says_what_to_check() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let failure = tenants::usage(UsageArgs::default(), &context(&format!("http://{address}")), Out::new(Format::Table))
        .await
        .expect_err("nobody there");
    assert_eq!(failure.exit_code(), 3);
    let text = failure.text().replace(&address.to_string(), "ADDRESS");
    expect![[r#"
        error: cannot reach the scheduler at http://ADDRESS: Connection refused (os error 111)
          remedy: is it running there (dure dev starts a whole cluster here)? is the address right (--server URL, DURE_SERVER)? https:// needs --ca FILE when the scheduler signs its own certificate"#]]
    .assert_eq(&text);
}

#[tokio::test]
async fn something_else_on_the_port_is_no_scheduler() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            use tokio::io::AsyncWriteExt;
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n").await;
        }
    });
    let context = context(&format!("http://{address}"));
    let answer = tokio::time::timeout(
        Duration::from_secs(10),
        tenants::usage(UsageArgs::default(), &context, Out::new(Format::Table)),
    );
    let failure = answer.await.expect("does not hang").expect_err("no scheduler");
    assert_eq!(failure.exit_code(), 3, "{}", failure.text());
}
