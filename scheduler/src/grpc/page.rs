//! Pages: a request's size and token in, a place to go on from out; and the digest that ties a token to its request.
//!
//! A token is the next place and a digest of the filter: it is opaque to callers, and refused beside another filter.

use dure_proto::v1::PageRequest;
use prost::Message;
use sha2::{Digest, Sha256};

use super::limits::{DEFAULT_PAGE, MAX_PAGE};
use super::status::Violation;

/// Where a page begins and how long it may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// Entries at most; 1 to `MAX_PAGE`.
    pub size: usize,
    /// The first place to look at; 0 at the beginning.
    pub from: u64,
    filter: u32,
}

impl Page {
    /// Reads what is asked for; `filter` is the request without its page.
    ///
    /// # Errors
    /// For a size above the limit, or a token that was not given for this filter.
    pub fn read(page: Option<PageRequest>, filter: &impl Message) -> Result<Self, Violation> {
        let PageRequest { page_size, page_token } = page.unwrap_or_default();
        if page_size > MAX_PAGE {
            return Err(Violation::new("page.page_size", format!("{page_size}; ask for at most {MAX_PAGE} at a time")));
        }
        let size = if page_size == 0 { DEFAULT_PAGE } else { page_size } as usize;
        let filter = digest(filter);
        let from = if page_token.is_empty() { 0 } else { place(&page_token, filter)? };
        Ok(Self { size, from, filter })
    }

    /// The token of the page that begins at `next`; empty when there is none.
    pub fn token(&self, next: Option<u64>) -> String {
        next.map_or_else(String::new, |next| format!("{next:016x}{:08x}", self.filter))
    }
}

fn place(token: &str, filter: u32) -> Result<u64, Violation> {
    let bad = |problem: &str| Violation::new("page.page_token", problem);
    let is_token = token.len() == 24 && token.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_token {
        return Err(bad("not a token of this server; repeat next_page_token as it was, or leave it empty to begin"));
    }
    let (next, of) = token.split_at(16);
    if u32::from_str_radix(of, 16) != Ok(filter) {
        return Err(bad(
            "given for another filter; repeat the filter of the first page, or leave the token empty to begin",
        ));
    }
    u64::from_str_radix(next, 16).map_err(|_| bad("not a token of this server"))
}

fn digest(message: &impl Message) -> u32 {
    let digest = Sha256::digest(message.encode_to_vec());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use dure_proto::v1::ListJobsRequest;

    #[test]
    fn a_token_is_good_for_its_own_filter_only() {
        let filter = ListJobsRequest { tenant: "fusion".into(), ..Default::default() };
        let other = ListJobsRequest { tenant: "solar".into(), ..Default::default() };
        let first = Page::read(None, &filter).expect("no page is the first page");
        assert_eq!((first.size, first.from), (100, 0));
        let page_token = first.token(Some(4711));
        let next = PageRequest { page_size: 7, page_token };
        let second = Page::read(Some(next.clone()), &filter).expect("the token is good");
        assert_eq!((second.size, second.from), (7, 4711));
        assert!(Page::read(Some(next), &other).expect_err("another filter").problem.contains("another filter"));
        let garbage = PageRequest { page_size: 7, page_token: "zz".into() };
        assert!(Page::read(Some(garbage), &filter).is_err());
        let large = PageRequest { page_size: 1001, page_token: String::new() };
        assert!(Page::read(Some(large), &filter).expect_err("too large").problem.contains("at most 1000"));
        assert_eq!(first.token(None), "");
    }
}
