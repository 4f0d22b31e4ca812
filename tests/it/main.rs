//! One integration binary.
#[test]
fn placeholder() {}
