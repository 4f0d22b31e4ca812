//! What becomes of output that nobody reads any more.
//!
//! Place: the first lines of every `main`. Invariant: a reader that closes its pipe, as `head` does, ends the program without a word and
//! with the code that a shell gives to SIGPIPE. The signal itself stays ignored: sockets that close must end no process.

/// 128 and the number of SIGPIPE.
const CODE: i32 = 141;

/// Ends the program when it prints to a closed pipe, where `println!` would panic.
pub fn end_when_closed() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>();
        if text.is_some_and(|text| text.starts_with("failed printing to stdout") && text.contains("Broken pipe")) {
            std::process::exit(CODE);
        }
        told(panic);
    }));
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// Set in the child, which is this program, started for one test alone.
    const CHILD: &str = "MEIT_OUTPUT_CHILD";

    #[test]
    fn a_closed_pipe_ends_the_program_without_a_word() {
        if std::env::var_os(CHILD).is_some() {
            end_when_closed();
            loop {
                println!("{}", "line ".repeat(1000));
            }
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "output::tests::a_closed_pipe_ends_the_program_without_a_word",
                "--nocapture",
            ])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // past what the test runner prints before
        let mut read = child.stdout.take().unwrap();
        read.read_exact(&mut [0; 8192]).unwrap();
        drop(read);
        let ended = child.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), ended.stderr.len()), (Some(CODE), 0), "{ended:?}");
    }
}
