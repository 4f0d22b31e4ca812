//! meit-review: drafts in, signed reports out.
//!
//! Place: the command line around [`review::Server`].
//! Invariant: holds no logic; a bad setting, token file or audit log exits before anything is served.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use prometheus::Registry;
use review::metrics::Metrics;
use review::settings::ReviewSettings;
use review::{Server, audit, auth};
use service::shutdown::Shutdown;
use service::telemetry::Meter;

/// What stands under --help.
const EXAMPLES: &str = "\
Examples:
  meit-review                                           the page at http://127.0.0.1:9470/, for this machine
  meit-review --config /etc/meit/review.toml            with tokens, single sign-on and TLS
  meit-review new-token --signer dr-7f3a --role signer  a token, shown once, and its lines for the tokens file
  meit-review check-audit /var/lib/meit/audit.jsonl     is every line as it was written?";

/// A web page on which a clinician reads, edits, signs and rejects drafts.
#[derive(Parser)]
#[command(name = "meit-review", version, after_help = EXAMPLES)]
struct Arguments {
    /// Settings file (TOML); its values override the defaults, and MEIT__SECTION__KEY variables override both.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a random token: prints it once, and the lines for the tokens file, which hold only its hash.
    NewToken {
        /// Pseudonym of its owner, as in signatures.
        #[arg(long)]
        signer: String,
        /// Profession of its owner, as in signatures.
        #[arg(long, default_value = "cardiologist")]
        title: String,
        /// What its owner may do: "viewer" or "signer".
        #[arg(long, value_parser = ["viewer", "signer"])]
        role: String,
    },
    /// Checks every line of an audit log and prints how many there are and the last one's hash.
    CheckAudit {
        /// The log.
        file: PathBuf,
    },
    /// Prints the settings in force, one a line with where each was set, secrets hidden; fails as the start would.
    CheckConfig {
        /// Settings file (TOML); without it, the built-in defaults and the environment.
        file: Option<PathBuf>,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    service::output::end_when_closed();
    let arguments = Arguments::parse();
    service::telemetry::init_tracing("info");
    match arguments.command {
        Some(Command::NewToken { signer, title, role }) => {
            let (token, sha256) = auth::new_token();
            let quote = |text: &str| serde_json::to_string(text).context("quote");
            println!("# token, shown only now: {token}\n[[token]]\nsha256 = \"{sha256}\"");
            println!(
                "signer = {}\ntitle = {}\nrole = \"{role}\"",
                quote(&signer)?,
                quote(&title)?
            );
            Ok(())
        }
        Some(Command::CheckAudit { file }) => {
            let checked = audit::check(&file)?;
            println!(
                "{} lines, {} signatures, last hash {}",
                checked.lines,
                checked.signed.len(),
                checked.last
            );
            Ok(())
        }
        Some(Command::CheckConfig { file }) => {
            print!(
                "{}",
                service::settings::show::show::<ReviewSettings>("review", file.as_deref())?
            );
            Ok(())
        }
        None => serve(arguments.config).await,
    }
}

async fn serve(config: Option<PathBuf>) -> anyhow::Result<()> {
    let settings: ReviewSettings =
        service::settings::load_checked("review", config.as_deref()).context("read settings")?;
    let (registry, shutdown) = (Registry::new(), Shutdown::from_signals());
    let metrics = Metrics::new(&registry).context("register metrics")?;
    service::telemetry::describe(Meter::new(&registry, "review"), &settings).context("register metrics")?;
    let metrics_address = settings.review.metrics_address.clone();
    if !metrics_address.is_empty() {
        let bound = service::telemetry::serve(registry, &metrics_address, shutdown.clone())
            .await
            .context("serve metrics")?;
        tracing::info!(%bound, "serving /metrics and /healthz");
    }
    let server = Server::bind(settings, metrics, shutdown).await?;
    tracing::info!(address = %server.address(), "serving the review page");
    server.run().await
}
