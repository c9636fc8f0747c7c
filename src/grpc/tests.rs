use super::*;

fn with_timeout(text: &'static str) -> Option<Duration> {
    let mut request = Request::new(());
    request.metadata_mut().insert("grpc-timeout", text.parse().unwrap());
    deadline(&request)
}

#[test]
fn a_deadline_is_the_callers_in_every_unit_and_a_little_less() {
    let less = |timeout: Duration| Some(timeout - Duration::from_millis(5));
    assert_eq!(with_timeout("2H"), less(Duration::from_secs(7200)));
    assert_eq!(with_timeout("3M"), less(Duration::from_secs(180)));
    assert_eq!(with_timeout("4S"), less(Duration::from_secs(4)));
    assert_eq!(with_timeout("500m"), less(Duration::from_millis(500)));
    assert_eq!(with_timeout("99999999u"), less(Duration::from_micros(99_999_999)));
    assert_eq!(with_timeout("1n"), Some(Duration::ZERO));
}

#[test]
fn no_deadline_and_a_senseless_one_are_none() {
    assert_eq!(deadline(&Request::new(())), None);
    for text in ["", "S", "5", "5x", "-5S", "5.0S", "99999999999999999H"] {
        assert_eq!(with_timeout(text), None, "{text}");
    }
}
