use super::*;

fn parse(text: &str) -> RequestHead {
    parse_head(text.as_bytes(), false)
}

fn path(head: &RequestHead) -> Option<&str> {
    head.text_of(head.path)
}

fn query(head: &RequestHead) -> Option<&str> {
    head.text_of(head.query)
}

fn host(head: &RequestHead) -> Option<&str> {
    head.text_of(head.host)
}

fn user_agent(head: &RequestHead) -> Option<&str> {
    head.text_of(head.user_agent)
}

#[test]
fn an_ordinary_head_is_taken_apart() {
    let head = parse(
        "POST /cart/add?item=7&q=a%20b HTTP/1.1\r\nHost: shop.test:8080\r\nUser-Agent: curl/8.5\r\nCookie: secret\r\n\r\n",
    );
    assert_eq!(head.method, Method::Post);
    assert_eq!(head.version, Some(Version::Http11));
    assert_eq!(path(&head), Some("/cart/add"));
    assert_eq!(query(&head), Some("item=7&q=a%20b"));
    assert_eq!(host(&head), Some("shop.test"));
    assert_eq!(head.text_of(head.authority), Some("shop.test:8080"));
    assert_eq!(head.port, Some(8080));
    assert_eq!(user_agent(&head), Some("curl/8.5"));
    assert!(!head.text.contains("secret"));
}

#[test]
fn the_authority_of_an_absolute_target_wins_over_host_and_loses_its_credentials() {
    let head = parse(
        "GET HTTP://user:pa%40ss@upstream.test/a?sig=abc HTTP/1.1\r\nHost: proxy.test:3128\r\n\r\n",
    );
    assert_eq!(head.scheme(), Some("http"));
    assert_eq!(host(&head), Some("upstream.test"));
    assert_eq!(head.port, None);
    assert!(head.has_userinfo);
    assert_eq!(path(&head), Some("/a"));
    assert_eq!(query(&head), Some("sig=REDACTED"));
    assert!(!head.text.contains("pa%40ss") && !head.text.contains("abc"), "{}", head.text);
}

#[test]
fn a_target_of_no_form_loses_what_may_be_credentials() {
    for target in ["user:pa55@a.test", "http:/user:pa55@a.test", "u@ser:pa55@a.test"] {
        let head = parse(&format!("GET {target}?x=@ HTTP/1.1\r\n\r\n"));
        assert_eq!((path(&head), query(&head)), (Some("a.test"), Some("x=@")), "{target}");
    }
    assert_eq!(path(&parse("GET index.html HTTP/1.1\r\n\r\n")), Some("index.html"));
    assert_eq!(path(&parse_head(b"GET user:pa5", true)), None);
}

#[test]
fn an_absolute_target_without_path_asks_for_the_root() {
    let head = parse("GET http://a.test?x=1 HTTP/1.1\r\n\r\n");
    assert_eq!((path(&head), query(&head)), (Some(""), Some("x=1")));
    assert_eq!(path(&parse("GET http://a.test HTTP/1.1\r\n\r\n")), Some("/"));
}

#[test]
fn connect_names_an_authority_and_no_path() {
    let head = parse("CONNECT db.test:5432 HTTP/1.1\r\nHost: proxy.test\r\n\r\n");
    assert_eq!((host(&head), head.port), (Some("db.test"), Some(5432)));
    assert_eq!(path(&head), None);
}

#[test]
fn an_ipv6_host_loses_its_brackets_and_keeps_its_colons() {
    let head = parse("GET / HTTP/1.1\r\nHost: [2001:db8::1]:8443\r\n\r\n");
    assert_eq!((host(&head), head.port), (Some("2001:db8::1"), Some(8443)));
    let head = parse("GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n");
    assert_eq!((host(&head), head.port), (Some("::1"), None));
    assert_eq!(head.text_of(head.authority), Some("[::1]"));
}

#[test]
fn the_asterisk_is_a_path() {
    assert_eq!(path(&parse("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")), Some("*"));
}

#[test]
fn an_unknown_method_is_kept_as_it_was_sent() {
    let head = parse("PROPFIND /dav HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(head.method, Method::Other);
    assert_eq!(head.text_of(head.method_original), Some("PROPFIND"));
    assert_eq!(parse("GET / HTTP/1.0\r\n\r\n").method_original, None);
}

#[test]
fn a_head_cut_in_its_headers_keeps_those_that_are_whole() {
    let head =
        parse_head(b"GET /a HTTP/1.1\r\nHost: a.test\r\nUser-Agent: x\r\nCookie: abcdef", true);
    assert_eq!(path(&head), Some("/a"));
    assert_eq!(host(&head), Some("a.test"));
    assert_eq!(user_agent(&head), Some("x"));
}

#[test]
fn a_head_cut_in_its_target_keeps_what_there_is() {
    let head = parse_head(b"GET /very/long?sig=secr", true);
    assert_eq!(head.method, Method::Get);
    assert_eq!((path(&head), query(&head)), (Some("/very/long"), Some("sig=REDACTED")));
    assert_eq!(head.version, None);
}

#[test]
fn an_authority_cut_before_its_end_is_not_trusted() {
    let head = parse_head(b"GET http://user:secr", true);
    assert_eq!((host(&head), path(&head)), (None, None));
    assert!(!head.text.contains("secr"));
}

#[test]
fn every_prefix_of_a_head_is_legal_and_leaks_nothing() {
    let text = "POST http://u:hush@a.test/x?sig=hush&a=1 HTTP/1.1\r\nHost: a.test\r\nAuthorization: hush\r\nUser-Agent: ua/1\r\nCookie: hush\r\n\r\n";
    for end in 0..=text.len() {
        let head = parse_head(&text.as_bytes()[..end], end < text.len());
        assert!(!head.text.contains("hus"), "{end}: {}", head.text);
    }
}

#[test]
fn more_headers_than_are_looked_at_do_no_harm() {
    let mut text = String::from("GET /many HTTP/1.1\r\nHost: a.test\r\n");
    for i in 0..MANY_HEADERS + 50 {
        text.push_str(&format!("x{i}: y\r\n"));
    }
    let head = parse(&(text + "\r\n"));
    assert_eq!((path(&head), host(&head)), (Some("/many"), Some("a.test")));
}

#[test]
fn bytes_that_are_not_utf8_are_replaced() {
    let head = parse_head(b"GET /\xff HTTP/1.1\r\nHost: a\r\nUser-Agent: \xfe\r\n\r\n", false);
    assert_eq!(path(&head), Some("/\u{fffd}"));
    assert_eq!((host(&head), user_agent(&head)), (Some("a"), Some("\u{fffd}")));
    assert_eq!(head.version, Some(Version::Http11));
}

#[test]
fn bytes_that_are_no_head_give_an_empty_one() {
    assert!(!parse_head(b"", false).has_method());
    assert!(parse("GET / HTTP/1.1\r\n\r\n").has_method());
}
