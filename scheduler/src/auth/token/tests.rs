//! Files good and bad, expiry, one-time tokens, and a file that changes under the server.

use std::path::Path;

use expect_test::{Expect, expect};

use super::file::parse;
use super::*;
use crate::auth::{NodeName, Role};

fn digest_of(token: &str) -> String {
    TokenDigest::of(token).to_string()
}

fn entry(token: &str, rest: &str) -> String {
    format!("[[token]]\nsha256 = \"{}\"\n{rest}\n", digest_of(token))
}

fn tokens(text: &str) -> Tokens {
    let table = parse(Path::new("tokens.toml"), text).expect("the file is good");
    Tokens::with(table, None, Spent::in_memory())
}

fn agent(name: &str) -> Identity {
    Identity {
        user: name.into(),
        role: Role::Agent,
        missions: Vec::new(),
        node: Some(NodeName::parse(name)),
        credential: Credential::Token { digest: TokenDigest([0; 32]), one_time: true },
    }
}

#[test]
fn a_token_is_found_by_its_digest_until_it_expires() {
    let text = entry("one", "user = \"ana\"\nrole = \"pd\"\nmissions = [\"fusion\"]\nexpires = 2030-01-01T00:00:00Z")
        + &entry("two", "user = \"bo\"\nrole = \"operator\"")
        + &entry("three", "user = \"n7\"\nrole = \"agent\"\nnode = \"n7\"\none_time = true");
    let tokens = tokens(&text);
    let expires = Time(1_893_456_000_000);
    let ana = tokens.find_at("one", Time(expires.0 - 1)).expect("it is good");
    assert_eq!((&*ana.user, ana.role, ana.missions.len()), ("ana", Role::Pd, 1));
    assert_eq!(tokens.find_at("one", expires), Err(BadToken::Expired));
    assert_eq!(tokens.find_at("two", Time(u64::MAX)).expect("it never expires").role, Role::Operator);
    let joining = tokens.find("three").expect("it is good");
    assert!(matches!(joining.credential, Credential::Token { one_time: true, .. }));
    for wrong in ["", "One", "one ", &digest_of("one"), &"x".repeat(300)] {
        assert_eq!(tokens.find(wrong), Err(BadToken::Unknown), "{wrong:?}");
    }
}

#[test]
fn what_is_made_is_long_and_known_for_what_it_is() {
    let (first, second) = (create().expect("random bytes"), create().expect("random bytes"));
    assert_ne!(first.token, second.token);
    assert!(first.token.starts_with(TOKEN_PREFIX) && first.token.len() == TOKEN_PREFIX.len() + 64);
    assert_eq!(first.digest, TokenDigest::of(&first.token));
    let entry = TokenEntry {
        sha256: first.digest.to_string(),
        user: "ana".into(),
        role: "member".into(),
        missions: vec!["fusion".into()],
        node: None,
        expires: "2030-01-01T00:00:00Z".parse().ok(),
        one_time: false,
    };
    let text = entry.to_toml().expect("it is a good entry");
    let found = tokens(&text).find_at(&first.token, Time(0)).expect("what is written is read");
    assert_eq!((&*found.user, found.role), ("ana", Role::Member));
    assert!(TokenEntry { role: "king".into(), ..entry }.to_toml().is_err());
}

fn check(text: &str, expected: Expect) {
    expected.assert_eq(&parse(Path::new("tokens.toml"), text).expect_err("it must be refused").to_string());
}

#[test]
fn bad_entries_are_named_with_their_field() {
    check(
        &entry("a", "user = \"ana\"\nrole = \"pd\"\nmission = [\"x\"]"),
        expect![[r#"
        tokens.toml: TOML parse error at line 5, column 1
          |
        5 | mission = ["x"]
          | ^^^^^^^
        unknown field `mission`, expected one of `sha256`, `user`, `role`, `missions`, `node`, `expires`, `one_time`
    "#]],
    );
    check(
        "[[token]]\nsha256 = \"abc\"\nuser = \"ana\"\nrole = \"operator\"\n",
        expect![[r#"token[0].sha256 = "abc": expected the token's SHA-256 as 64 hexadecimal digits"#]],
    );
    check(
        &entry("a", "user = \"ana\"\nrole = \"root\""),
        expect![[r#"token[0].role = "root": use pd, member, operator, auditor or agent"#]],
    );
    check(
        &entry("a", "user = \"a b\"\nrole = \"operator\""),
        expect![[r#"token[0].user = "a b": use 1 to 128 bytes without white space"#]],
    );
    check(
        &entry("a", "user = \"ana\"\nrole = \"pd\""),
        expect![[r#"token[0].missions = []: name at least one mission, as in missions = ["fusion"]"#]],
    );
    check(
        &entry("a", "user = \"ana\"\nrole = \"auditor\"\nmissions = [\"x\"]"),
        expect![[r#"token[0].missions = ["x"]: only pd and member have missions: remove them"#]],
    );
    check(
        &entry("a", "user = \"ana\"\nrole = \"pd\"\nmissions = [\"x/y\"]"),
        expect![[r#"token[0].missions = "x/y": name missions, the first part of a tenant's path"#]],
    );
    check(
        &entry("a", "user = \"n1\"\nrole = \"agent\""),
        expect![[r#"token[0].node = "": an agent's token names its node, or a prefix as in "gpu-*""#]],
    );
    check(
        &entry("a", "user = \"n1\"\nrole = \"agent\"\nnode = \"*\""),
        expect![[r#"token[0].node = "*": name the node, or a prefix as in "gpu-*""#]],
    );
    check(
        &entry("a", "user = \"ana\"\nrole = \"operator\"\nnode = \"n1\""),
        expect![[r#"token[0].node = "n1": only an agent has a node: remove it"#]],
    );
    check(
        &entry("a", "user = \"ana\"\nrole = \"operator\"\none_time = true"),
        expect!["token[0].one_time = true: only an agent's join token is spent: remove it"],
    );
    check(
        &entry("a", "user = \"ana\"\nrole = \"operator\"\nexpires = 2030-01-01"),
        expect![[r#"token[0].expires = "2030-01-01": write the zone as well: 2027-01-31T00:00:00Z"#]],
    );
    let twice = entry("a", "user = \"ana\"\nrole = \"operator\"").repeat(2);
    let refused = parse(Path::new("tokens.toml"), &twice).expect_err("listed twice").to_string();
    assert!(refused.starts_with("token[1].sha256") && refused.ends_with("remove one entry"), "{refused}");
}

#[test]
fn a_one_time_token_is_spent_on_one_node_and_key_for_ever() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (file, spent) = (dir.path().join("tokens.toml"), dir.path().join("data/spent"));
    std::fs::write(&file, entry("j", "user = \"n\"\nrole = \"agent\"\nnode = \"n*\"\none_time = true"))
        .expect("written");
    let digest = TokenDigest::of("j");
    let tokens = Tokens::load(&file, &spent).expect("it is good");
    assert!(tokens.spend(digest, "n1", [1; 32]).expect("it is written down"));
    assert!(tokens.spend(digest, "n1", [1; 32]).expect("a lost answer may be asked for again"));
    assert!(!tokens.spend(digest, "n1", [2; 32]).expect("another key"));
    assert!(!tokens.spend(digest, "n2", [1; 32]).expect("another node"));
    let again = Tokens::load(&file, &spent).expect("it is good");
    assert!(!again.spend(digest, "n2", [1; 32]).expect("it stays spent after a restart"));
    assert!(again.spend(digest, "n1", [1; 32]).expect("on the same node and key too"));
    let text = std::fs::read_to_string(&spent).expect("it was written");
    std::fs::write(&spent, &text[..text.len() - 3]).expect("a torn line");
    let torn = Tokens::load(&file, &spent).expect("a torn line is no error");
    assert!(torn.spend(digest, "n2", [1; 32]).expect("what was cut short was never answered for"));
    assert!(!Tokens::load(&file, &spent).expect("good").spend(digest, "n1", [1; 32]).expect("it is spent on n2 now"));
}

#[test]
fn tokens_in_memory_are_beside_those_of_the_file() {
    let tokens = Tokens::in_memory();
    let token = tokens.add(agent("n1")).expect("random bytes");
    let found = tokens.find(&token).expect("it was added");
    let digest = TokenDigest::of(&token);
    assert_eq!(found.credential, Credential::Token { digest, one_time: true });
    assert!(
        tokens.spend(digest, "n1", [0; 32]).expect("in memory") && !tokens.spend(digest, "n2", [0; 32]).expect("once")
    );
}

#[test]
fn a_changed_file_is_read_again_and_a_broken_one_is_not_believed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("tokens.toml");
    std::fs::write(&file, entry("a", "user = \"ana\"\nrole = \"operator\"")).expect("written");
    let tokens = Tokens::load(&file, &dir.path().join("spent")).expect("it is good");
    tokens.look_again(Time(10_000));
    std::fs::write(&file, "this is no token file").expect("written");
    tokens.look_again(Time(20_000));
    assert!(tokens.find_at("a", Time(20_000)).is_ok(), "the old tokens stay in force");
    let other = entry("b", "user = \"bo\"\nrole = \"auditor\"") + &entry("c", "user = \"cy\"\nrole = \"auditor\"");
    std::fs::write(&file, other).expect("written");
    tokens.look_again(Time(20_500));
    assert_eq!(tokens.find_at("b", Time(20_500)), Err(BadToken::Unknown), "it is looked at once a second at most");
    tokens.look_again(Time(30_000));
    assert!(tokens.find_at("b", Time(30_000)).is_ok());
    assert_eq!(tokens.find_at("a", Time(30_000)), Err(BadToken::Unknown), "what is removed is out of force");
}

#[test]
fn a_session_hears_of_its_revocation_and_looks_nothing_up_while_nothing_is_listed_anew() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("tokens.toml");
    let listed = entry("a", "user = \"ana\"\nrole = \"operator\"");
    std::fs::write(&file, &listed).expect("written");
    let tokens = Tokens::load(&file, &dir.path().join("spent")).expect("it is good");
    let (mut checked, mut other, issued) = (Checked::default(), Checked::default(), Time(1_700_000_000_000));
    tokens.check_again("n1", issued, &mut checked).expect("it is good");
    let first = checked;
    {
        // Nothing that could be looked up: the session goes on all the same.
        let _held = tokens.inner.from_file.write().expect("nobody else has it");
        tokens.check_again("n1", issued, &mut checked).expect("it was good");
    }
    assert_eq!(checked, first);
    std::fs::write(&file, listed + "[[revoked]]\nnode = \"n1\"\nbefore = 2026-01-01T00:00:00Z\n").expect("written");
    tokens.look_again(Time(u64::MAX));
    let refused = tokens.check_again("n1", issued, &mut checked).expect_err("it is revoked");
    assert!(refused.to_string().starts_with("the certificate of node \"n1\" was revoked"), "{refused}");
    assert!(tokens.check_again("n1", issued, &mut checked).is_err(), "and stays so");
    tokens.check_again("n2", issued, &mut other).expect("another node's is good");
    assert_ne!(other, first, "by what is listed now");
}
