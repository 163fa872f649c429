//! Tests of tickets.

use proptest::prelude::*;

use super::*;

const NOW: UnixSeconds = 1_800_000_000;

fn keys() -> TicketKeys {
    TicketKeys::new(MacKeys::new(["a secret of the tests, 32 bytes+"]).unwrap())
}

fn id(number: u8) -> TicketId {
    TicketId::from_random([number; TICKET_RANDOM_BYTES])
}

fn grant(user: &str) -> TicketGrant {
    TicketGrant {
        user: user.to_owned(),
        fields: [("tenant".to_owned(), vec!["a".to_owned(), "b".to_owned()])].into(),
        channels: vec!["room:*".to_owned()],
        info: Some("{\"name\":1.0}".to_owned()),
        expires_at: Some(NOW + 3600),
        issued_at: NOW,
    }
}

fn table(number: u8, user: &str) -> TicketTable {
    let mut table = TicketTable::default();
    assert!(table.insert(id(number), StoredTicket::new(&grant(user)).unwrap(), 60, NOW));
    table
}

#[test]
fn a_ticket_is_used_once() {
    let mut table = table(1, "42");
    let first = table.consume(&id(1), NOW);
    assert_eq!(keys().admit(&id(1), first.as_ref(), None, NOW), Ok(grant("42")));
    let second = table.consume(&id(1), NOW);
    assert_eq!(keys().admit(&id(1), second.as_ref(), None, NOW), Err(TicketError::Spent));
    let other = table.consume(&id(2), NOW);
    assert_eq!(keys().admit(&id(2), other.as_ref(), None, NOW), Err(TicketError::Unknown));
}

#[test]
fn an_unused_ticket_expires() {
    let mut table = table(1, "42");
    assert_eq!(table.consume(&id(1), NOW + 60), None);
    assert_eq!(table.consume(&id(1), NOW), None, "removed");
}

#[test]
fn a_spent_ticket_is_accepted_with_its_code_until_the_login_ends() {
    let mut table = table(1, "42");
    let first = table.consume(&id(1), NOW).unwrap();
    let code = keys().resume_code(&id(1), &first);
    let mut resume = |code: &str, now| {
        let consumed = table.consume(&id(1), now);
        keys().admit(&id(1), consumed.as_ref(), Some(code), now)
    };
    assert_eq!(resume(&code, NOW + 3599), Ok(grant("42")), "long after the ticket's own expiry");
    for wrong in ["", "AAAAAAAAAAAAAAAAAAAAAA", &code[..21], &format!("{code}A"), &format!("{code}=")] {
        assert_eq!(resume(wrong, NOW), Err(TicketError::Spent), "{wrong}");
    }
    // A part of the code is easier to guess.
    let bytes = URL_SAFE_NO_PAD.decode(&code).unwrap();
    for length in 0..bytes.len() {
        let part = URL_SAFE_NO_PAD.encode(&bytes[..length]);
        assert_eq!(resume(&part, NOW), Err(TicketError::Spent), "{length} bytes");
    }
    assert_eq!(resume(&code, NOW + 3600), Err(TicketError::Unknown));
    let spent = first.spent();
    let late = keys().admit(&id(1), Some(&spent), Some(&code), NOW + 3600);
    assert_eq!(late, Err(TicketError::Expired(NOW + 3600)));
}

#[test]
fn a_code_is_bound_to_ticket_and_grant() {
    let stored = |user| StoredTicket::new(&grant(user)).unwrap().spent();
    let code = keys().resume_code(&id(1), &stored("42"));
    let admit = |number, user, keys: &TicketKeys| {
        keys.admit(&id(number), Some(&stored(user)), Some(&code), NOW).map(|grant| grant.user)
    };
    assert_eq!(admit(1, "42", &keys()), Ok("42".to_owned()));
    assert_eq!(admit(2, "42", &keys()), Err(TicketError::Spent), "another ticket");
    assert_eq!(admit(1, "43", &keys()), Err(TicketError::Spent), "another identity");
    let other = TicketKeys::new(MacKeys::new(["another secret of the tests"]).unwrap());
    assert_eq!(admit(1, "42", &other), Err(TicketError::Spent), "another secret");
}

#[test]
fn event_ids_contain_cursor_and_code() {
    let id = format!("AgEC{}", event_id_suffix("code"));
    assert_eq!(split_event_id(&id), ("AgEC", Some("code")));
    assert_eq!(split_event_id("AgEC"), ("AgEC", None));
}

#[test]
fn stored_values_are_read_back() {
    let stored = StoredTicket::new(&grant("42")).unwrap();
    let value = stored.to_value();
    assert!(value.starts_with("new:1800003600:{\"user\":\"42\""), "{value}");
    assert_eq!(StoredTicket::parse(&value), Some(stored.clone()));
    assert_eq!(StoredTicket::parse(&stored.spent().to_value()), Some(stored.spent()));
    let forever = TicketGrant { expires_at: None, ..grant("42") };
    assert_eq!(StoredTicket::new(&forever).unwrap().keep_until(), NOW + RESUME_TTL_MAX);
    for value in ["", "new", "new:", "new:x:{}", "old:1:{}", "new:1", "new:-1:{}"] {
        assert_eq!(StoredTicket::parse(value), None, "{value}");
    }
    for grant in ["", "{}", "[]", r#"{"user":"42","issued_at":1,"admin":true}"#] {
        let stored = StoredTicket::parse(&format!("new:1:{grant}"));
        assert_eq!(keys().admit(&id(1), stored.as_ref(), None, NOW), Err(TicketError::Malformed), "{grant}");
    }
}

#[test]
fn ids_have_one_spelling_and_are_not_shown() {
    let id = id(7);
    assert_eq!(TicketId::parse(id.expose()), Some(id.clone()));
    assert_eq!(id.storage_key("earshot:"), format!("earshot:ticket:{}", id.expose()));
    for text in ["", "a", "../../AAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAB", "AAAAAAAAAAAAAAAAAAAAAA==", "*"]
    {
        assert_eq!(TicketId::parse(text), None, "{text}");
    }
    let stored = StoredTicket::new(&grant("42")).unwrap();
    let shown = format!("{id:?} {stored:?} {:?}", keys());
    assert!(!shown.contains(id.expose()) && !shown.contains("tenant"), "{shown}");
}

proptest! {
    #[test]
    fn accepts_any_text(text in "(new:|spent:)?[0-9]{0,3}:?\\PC{0,20}") {
        let stored = StoredTicket::parse(&text);
        let _ = keys().admit(&id(1), stored.as_ref(), Some(&text), NOW);
        let _ = (TicketId::parse(&text), split_event_id(&text));
    }
}
