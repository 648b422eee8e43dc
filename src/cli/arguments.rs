//! The command line as typed.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::pattern::{Mode, PatternKind};

/// Runs patterns and keeps memories for agents, over MCP or by hand.
#[derive(Debug, Parser)]
#[command(
    name = "tmws",
    about = "Runs typed, tested patterns and keeps a project's memory, as an MCP server or by hand",
    long_about = "Runs typed, tested patterns and keeps a project's memory, as an MCP server or by hand.\n\n\
        Without a command it speaks MCP on stdin and stdout, which is how hosts launch it. `tmws COMMAND --help` explains\n\
        one command.\n\
        Settings come from defaults, tmws.toml, TMWS_* variables and flags, later ones win; `tmws doctor` shows each.",
    after_long_help = "Exit codes: 0 done, 1 a check, a pattern or a bridge failed, 2 the command line or an input is wrong,\n\
        69 the store or the address to listen on cannot be used, 70 a bug in tmws,\n\
        78 the configuration is wrong.",
    disable_version_flag = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Arguments {
    /// Print compact JSON for machines
    #[arg(long, global = true)]
    pub json: bool,

    /// Print the version (with --json: revisions and schemas too)
    #[arg(short = 'V', long)]
    pub version: bool,

    /// Where settings come from.
    #[command(flatten)]
    pub settings: Settings,

    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags that set what `tmws.toml` and the environment set, too.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// Read this file instead of the user's tmws.toml
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub config: Option<PathBuf>,
    /// Workspace root (TMWS_ROOT; else CLAUDE_PROJECT_DIR, else the working directory)
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    pub root: Option<OsString>,
    /// Name of the agent (TMWS_AGENT)
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub agent: Option<OsString>,
    /// The store, as sqlite:PATH (TMWS_DATABASE_URL)
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub database_url: Option<OsString>,
    /// Further pattern folders, separated as in PATH (TMWS_PATTERNS)
    #[arg(long, global = true, value_name = "DIRS", hide_short_help = true)]
    pub patterns: Option<OsString>,
    /// Log level, or target=level pairs (TMWS_LOG)
    #[arg(long, global = true, value_name = "FILTER", hide_short_help = true)]
    pub log: Option<OsString>,
    /// How results travel: text, structured or both (TMWS_PAYLOAD)
    #[arg(long, global = true, value_name = "FORM", hide_short_help = true)]
    pub payload: Option<OsString>,
    /// Any other setting by its key, as in `limits.call_deadline=10s`; repeatable
    #[arg(long, global = true, value_name = "KEY=VALUE", hide_short_help = true)]
    pub setting: Vec<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Speak MCP on stdin and stdout (the default)
    Stdio,
    /// Share one server among many clients: WebSocket at /ws, Streamable HTTP at /mcp
    Serve(Serve),
    /// Join a shared server from a host that speaks stdio only
    Connect(Connect),
    /// Write down what a client and a server say, standing between them
    #[command(long_about = "Write down what a client and a server say, standing between them.\n\n\
            With a command it takes the server's place in a host's settings: it launches the server, passes on every byte,\n\
            signal and end of input, and exits with the server's code; with 127 or 126 where it could not be launched.\n\
            With --listen and --to it stands in front of a server on the network: WebSocket (ws, wss), or HTTP (http,\n\
            https) with its event streams, until SIGINT or SIGTERM.\n\n\
            The recording is JSON Lines, format mcp-rec/1 (`tmws schema show transcript`), one file for a launch, for a\n\
            WebSocket or for a run in front of an HTTP server. A file that is there is never written over: a number goes\n\
            before its ending. Where it cannot be written the conversation goes on without.")]
    Record(Record),
    /// Make, list and withdraw the tokens of a shared server
    Token(Token),
    /// Run a pattern, or let a question choose one
    Run(Run),
    /// Make, list, explain, check, test and trust patterns
    #[command(subcommand)]
    Pattern(Pattern),
    /// Start the other MCP servers of tmws.toml, list their tools, and print what pins them
    #[command(
        long_about = "Start the other MCP servers of tmws.toml, list their tools, and print what pins them.\n\n\
            Patterns call a tool only while it is what [servers.NAME.tools.TOOL] says: `schema` is the SHA-256 of its name,\n\
            description, schemas and annotations. A tool that is not what was pinned is shown with both hashes, and the\n\
            exit code is 1."
    )]
    Tools {
        /// Only this server; all of them where absent
        server: Option<String>,
    },
    /// Read and write the project's memory by hand
    #[command(subcommand)]
    Memory(Memory),
    /// Bring the store to this version's schema, or tell what that would do
    #[command(long_about = "Bring the store to this version's schema, or tell what that would do.\n\n\
            Any command that uses the store migrates it, too; this one does so at a time of your choosing. A store that a\n\
            newer tmws wrote is left untouched.")]
    Migrate(Migrate),
    /// Print the schemas of messages, tools, patterns, settings and recordings
    #[command(subcommand)]
    Schema(Schema),
    /// Play recorded conversations against a server and compare what it says
    Replay(Replay),
    /// Run 47 scenarios against a real deployment and decide: GO or NO-GO
    Accept(Accept),
    /// Measure what answers cost in tokens, beside other MCP servers and a shell
    TokenReport(TokenReport),
    /// Check this installation and print every setting with its origin
    Doctor(Doctor),
}

/// `tmws serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --tokens-file the first start makes one token for you alone, which `tmws connect` on this machine\n\
        reads by itself. The first SIGTERM or SIGINT lets calls answer, a second one ends at once; SIGHUP reads\n\
        the tokens and opens the audit log again. /healthz, /readyz and, with the scope `admin`, /metrics tell\n\
        how it is.\n\n\
        Examples:\n  tmws serve\n  tmws serve --listen 127.0.0.1:0 --no-auth\n  \
        tmws serve --listen 0.0.0.0:7337 --tls-cert cert.pem --tls-key key.pem --tokens-file tokens.toml \\\n    \
        --setting allowed_hosts=tmws.example.org"
)]
pub struct Serve {
    /// Where to listen (TMWS_LISTEN); port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<OsString>,
    /// Let everybody who reaches it in as the local user (TMWS_NO_AUTH); on loopback only
    #[arg(long)]
    pub no_auth: bool,
    /// The tokens to accept (TMWS_TOKENS_FILE); else one of its own, in the data folder
    #[arg(long, value_name = "FILE")]
    pub tokens_file: Option<OsString>,
    /// Certificate chain, PEM (TMWS_TLS_CERT)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<OsString>,
    /// Its private key, PEM (TMWS_TLS_KEY)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<OsString>,
}

impl Serve {
    /// As settings: flag, key, value.
    pub fn flags(&self) -> impl Iterator<Item = (String, String, OsString)> {
        let Self { listen, no_auth, tokens_file, tls_cert, tls_key } = self;
        [
            ("--listen", "listen", listen.clone()),
            ("--no-auth", "no_auth", no_auth.then(|| "true".into())),
            ("--tokens-file", "tokens_file", tokens_file.clone()),
            ("--tls-cert", "tls_cert", tls_cert.clone()),
            ("--tls-key", "tls_key", tls_key.clone()),
        ]
        .into_iter()
        .filter_map(|(flag, key, value)| Some((flag.to_owned(), key.to_owned(), value?)))
    }
}

/// `tmws token`.
#[derive(Debug, Args)]
pub struct Token {
    /// The file with the tokens' hashes (TMWS_TOKENS_FILE)
    #[arg(long, global = true, value_name = "FILE")]
    pub tokens_file: Option<OsString>,
    /// What to do with it.
    #[command(subcommand)]
    pub command: TokenCommand,
}

impl Token {
    /// As settings: flag, key, value.
    pub fn flags(&self) -> impl Iterator<Item = (String, String, OsString)> {
        let file = self.tokens_file.clone();
        file.into_iter().map(|file| ("--tokens-file".to_owned(), "tokens_file".to_owned(), file))
    }
}

/// `tmws token …`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token, print it once, and add its hash to the file; --agent fixes the token's agent
    #[command(
        after_help = "Examples:\n  tmws token new --principal ada --project web=write --scope pattern:run --scope memory:read --scope memory:write\n  \
        tmws token new --principal ci --project '*=read' --agent ci --expires 30d"
    )]
    New {
        /// Whom it stands for
        #[arg(long, value_name = "NAME")]
        principal: String,
        /// A project it opens: id or alias, or `*` for every one, to read or to write; repeatable; `personal` alone where absent
        #[arg(long, value_name = "ID[=read|write]")]
        project: Vec<String>,
        /// pattern:run, memory:read, memory:write, pattern:execute or admin; repeatable; the first two where absent
        #[arg(long, value_name = "SCOPE")]
        scope: Vec<String>,
        /// Until when: a date, a time with its zone, or a duration from now such as 30d
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
    },
    /// List the tokens: whose they are and what they open
    List,
    /// Withdraw the tokens of a principal, or one token; a running server closes their connections
    Revoke {
        /// Name of a principal, or the first digits of a hash as `tmws token list` prints it
        which: String,
    },
}

/// `tmws connect`.
#[derive(Debug, Args)]
#[command(
    after_help = "The token comes from the URL (ws://x:TOKEN@host), else TMWS_TOKEN, else, for a server on this\n\
        machine, the file that its first start wrote. Certificates are trusted as this machine trusts them, or by\n\
        the file that SSL_CERT_FILE names.\n\n\
        Examples:\n  tmws connect ws://127.0.0.1:7337\n  tmws connect https://tmws.example.org --project web"
)]
pub struct Connect {
    /// ws://, wss://, http:// or https:// address of a server
    pub url: String,
    /// Project to join (id or alias on the server) instead of the workspace's own
    #[arg(long, value_name = "ID", conflicts_with = "no_project")]
    pub project: Option<String>,
    /// Join the server's default project
    #[arg(long)]
    pub no_project: bool,
}

/// `tmws record`.
#[derive(Debug, Args)]
#[command(
    override_usage = "tmws record [OPTIONS] -- <CMD>...\n       tmws record [OPTIONS] --listen <ADDRESS:PORT> --to <URL>",
    after_help = "Not written: the environment, tokens and cookies in headers, userinfo and secrets in URLs, what the names\n\
        of options say is secret; session ids become session-1, session-2. What stands in messages is yours and IS\n\
        written: look before you share a recording, or take it out with --redact and --replace.",
    after_long_help = "Not written: the environment, tokens and cookies in headers, userinfo and secrets in URLs, what the names\n\
        of options say is secret; session ids become session-1, session-2. What stands in messages is yours and IS\n\
        written: look before you share a recording, or take it out with --redact and --replace.\n\n\
        In front of a server on the network, Host becomes the server's, and so does an Origin that names the listener;\n\
        other origins stay as they are, and other hosts than the listener's are refused. Accept-Encoding and\n\
        Sec-WebSocket-Extensions are not passed on, so that what is said can be read. Paths stay as they are.\n\n\
        Examples:\n  tmws record --dir recordings -- npx -y some-mcp-server\n  \
        tmws record --out a.jsonl --client py-mcp --client-version 1.30.0 -- tmws stdio\n  \
        tmws record --listen 127.0.0.1:0 --to http://127.0.0.1:7337\n  \
        tmws record --listen 127.0.0.1:8000 --to wss://mcp.example.org --redact 'customer-[0-9]+'"
)]
pub struct Record {
    /// The file to write; else one named after client and time
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Folder for files named after client and time; else the working folder
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    pub dir: Option<PathBuf>,
    /// The client's name in the header; else as it names itself
    #[arg(long, value_name = "NAME")]
    pub client: Option<String>,
    /// The client's version in the header; else as it says itself
    #[arg(long, value_name = "VERSION")]
    pub client_version: Option<String>,
    /// The scenario's name in the header
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
    /// Write `<redacted>` for whatever this expression matches, in messages too; repeatable
    #[arg(long, value_name = "REGEX")]
    pub redact: Vec<String>,
    /// Write WITH for TEXT, in messages too: for a folder's name, say; repeatable
    #[arg(long, value_name = "TEXT=WITH")]
    pub replace: Vec<String>,
    /// Where clients come in, on loopback; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", requires = "to", conflicts_with = "command")]
    pub listen: Option<String>,
    /// The ws://, wss://, http:// or https:// server in front of which to stand
    #[arg(long, value_name = "URL", requires = "listen")]
    pub to: Option<String>,
    /// Become the server of the recorder with this process id.
    #[arg(long = "for", hide = true, value_name = "PID", conflicts_with = "listen")]
    pub parent: Option<u32>,
    /// The stdio server's command
    #[arg(last = true, value_name = "CMD", required_unless_present_any = ["listen", "to"])]
    pub command: Vec<OsString>,
}

/// `tmws run`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tmws run repo.digest --set since=14d\n  tmws run \"what changed in the last 14d?\""
)]
pub struct Run {
    /// Name of a pattern (`repo.digest`, `repo.digest@1`), or a question in words
    pub target: String,
    /// Take the target for a question even if it is one word
    #[arg(short, long)]
    pub query: bool,
    /// One input, as in `since=14d`; repeatable
    #[arg(short, long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// All inputs as a JSON object, or `-` to read it from stdin
    #[arg(short, long, value_name = "JSON")]
    pub input: Option<String>,
    /// Budget, and for a question the types of patterns
    #[arg(short, long, value_enum, default_value_t)]
    pub mode: ModeArgument,
    /// A session handle that `session.open` minted
    #[arg(long, value_name = "HANDLE")]
    pub session: Option<String>,
    /// An etag: answer `unchanged` while it holds
    #[arg(long, value_name = "ETAG")]
    pub unless: Option<String>,
    /// Skip caches
    #[arg(long)]
    pub fresh: bool,
}

/// [`Mode`] as typed.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum ModeArgument {
    /// Half the budget; questions choose infrastructure patterns only
    Fast,
    /// As declared
    #[default]
    Balanced,
    /// Twice the budget
    Comprehensive,
}

impl From<ModeArgument> for Mode {
    fn from(mode: ModeArgument) -> Self {
        match mode {
            ModeArgument::Fast => Self::Fast,
            ModeArgument::Balanced => Self::Balanced,
            ModeArgument::Comprehensive => Self::Comprehensive,
        }
    }
}

/// `tmws pattern`.
#[derive(Debug, Subcommand)]
pub enum Pattern {
    /// List patterns
    List {
        /// Those that fit these words, best first
        query: Option<String>,
    },
    /// Print one pattern's file
    Show {
        /// Its name
        name: String,
    },
    /// Make a pattern file to start from, with a test that passes
    New {
        /// Its name, such as repo.digest
        name: String,
        /// Its type
        #[arg(long = "type", value_enum, value_name = "TYPE", default_value = "infrastructure")]
        kind: Kind,
        /// In the folder of this repository (.tmws/patterns), not in the user's
        #[arg(long)]
        project: bool,
    },
    /// Tell why a question runs the pattern that it runs, or which ones it is offered
    Explain {
        /// The question, in words
        query: String,
        /// As with `tmws run`
        #[arg(long, value_enum, default_value = "balanced")]
        mode: ModeArgument,
    },
    /// Check pattern files
    Lint {
        /// Files or folders; the user's and the repository's where absent
        paths: Vec<PathBuf>,
    },
    /// Run patterns' own tests, each in a fresh store and a copy of its fixture
    Test {
        /// Names or files; all patterns where absent
        names: Vec<String>,
    },
    /// Let patterns of this repository run, as they are now
    Trust {
        /// Their names; only shows what there is where absent
        names: Vec<String>,
    },
}

/// `tmws pattern new --type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// No memory steps
    Infrastructure,
    /// Nothing but memory, data and control
    Memory,
    /// Both
    Hybrid,
}

impl From<Kind> for PatternKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Infrastructure => Self::Infrastructure,
            Kind::Memory => Self::Memory,
            Kind::Hybrid => Self::Hybrid,
        }
    }
}

/// `tmws memory`.
#[derive(Debug, Subcommand)]
pub enum Memory {
    /// Store a memory
    Add {
        /// The text, or `-` to read it from stdin
        content: String,
        /// A tag; repeatable
        #[arg(short, long, value_name = "TAG")]
        tag: Vec<String>,
        /// 0 to 1
        #[arg(short, long, value_name = "NUMBER")]
        importance: Option<f64>,
        /// note, decision, fact, todo or any other word
        #[arg(short, long)]
        kind: Option<String>,
        /// Id of the memory that this one replaces
        #[arg(long, value_name = "ID")]
        supersedes: Option<String>,
    },
    /// Find memories by words, or list the newest
    Search {
        /// Any words
        query: Vec<String>,
        /// Only with this tag; repeatable
        #[arg(short, long, value_name = "TAG")]
        tag: Vec<String>,
        /// At most so many
        #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// Forget memories for good
    Forget {
        /// Their ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Write every memory as JSON Lines
    Export {
        /// A file, replaced only when all is written; stdout where absent
        file: Option<PathBuf>,
        /// Tell on stderr how far it is, also where that is no terminal
        #[arg(long)]
        progress: bool,
    },
    /// Take memories as exported, or another memory server's: every line is checked before the first is stored
    #[command(
        long_about = "Take memories as exported, or another memory server's: every line is checked before the first is stored.\n\n\
            They are stored in transactions of 500. Where that ends early, what is stored stays, and running the command\n\
            again goes on: memories that are there are skipped, others of the same id are left alone.\n\n\
            --from server-memory takes the file of @modelcontextprotocol/server-memory: each observation and each relation\n\
            becomes a memory of kind `fact` and trust `external`, with the entity's name and type as tags.",
        after_help = "Examples:\n  tmws memory import memories.jsonl\n  tmws memory import --from server-memory memory.jsonl"
    )]
    Import {
        /// A file, or `-` for stdin
        file: PathBuf,
        /// Who wrote the file
        #[arg(long, value_enum, value_name = "PROGRAM", default_value_t)]
        from: Origin,
        /// Take memories of another project or user into this project, as this user's
        #[arg(long)]
        adopt: bool,
        /// Tell on stderr how far it is, also where that is no terminal
        #[arg(long)]
        progress: bool,
    },
    /// Read the whole store and tell what is wrong with it; exit code 1 where something is
    Verify {
        /// Compare the index with the texts however long writers have to wait for that
        #[arg(long)]
        thorough: bool,
        /// Tell on stderr how far it is, also where that is no terminal
        #[arg(long)]
        progress: bool,
    },
    /// Copy the store into a new file, while others go on using it
    Backup {
        /// The file; must not exist
        file: PathBuf,
        /// Tell on stderr how far it is, also where that is no terminal
        #[arg(long)]
        progress: bool,
    },
}

/// Who wrote what is imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Origin {
    /// `tmws memory export`
    #[default]
    Tmws,
    /// npm @modelcontextprotocol/server-memory
    ServerMemory,
}

/// `tmws migrate`.
#[derive(Debug, Args)]
pub struct Migrate {
    /// Only tell what would be done; no file is touched
    #[arg(long)]
    pub dry_run: bool,
}

/// `tmws schema`.
#[derive(Debug, Subcommand)]
pub enum Schema {
    /// List the schemas in this binary
    List,
    /// Print one schema
    Show {
        /// Its name as `tmws schema list` prints it, or words that only one name holds
        #[arg(required = true)]
        name: Vec<String>,
    },
}

/// `tmws replay`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --against they are played against this program, with a store of its own. A token for an address\n\
        comes from it (ws://x:TOKEN@host), else from TMWS_TOKEN. `tmws record` writes transcripts.\n\
        Exit codes: 0 every rule was kept, 1 one was broken, 2 the command line or a transcript is wrong.\n\n\
        Examples:\n  tmws replay session.jsonl --against 'python server.py'\n  \
        tmws replay recordings --against http://127.0.0.1:8000/mcp --allow listed"
)]
pub struct Replay {
    /// Transcripts, and folders of them
    #[arg(required_unless_present = "explain", value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// The server: a command that speaks on stdin and stdout, in one argument, or a ws, wss, http or https address
    #[arg(long, value_name = "CMD|URL")]
    pub against: Option<String>,
    /// A wait that is longer than this, in seconds, is a failure
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    /// Texts, descriptions and structured contents must be equal, too
    #[arg(long)]
    pub exact: bool,
    /// Tolerate what breaks this rule; repeatable
    #[arg(long, value_name = "RULE")]
    pub allow: Vec<String>,
    /// Print every step, not only those that break a rule
    #[arg(short, long)]
    pub verbose: bool,
    /// Print the rules, and what may differ
    #[arg(long)]
    pub explain: bool,
}

/// `tmws token-report`.
#[derive(Debug, Args)]
#[command(
    after_help = "Scripted, no model runs. Arms: A reference MCP servers, A+ the same with a grep tool, C the host's shell, B this\n\
        program with its four tools. B is measured at each run, the others are transcripts that compat/tokens/record.py\n\
        makes. Counted in o200k_base is what a model sees; definitions are spread over K tasks. With --json every\n\
        figure: billed input, with and without cached prefixes, calls, turns, milliseconds, the three ways that hosts\n\
        show results. Exit code 1 where the gate is not passed.\n\n\
        Examples:\n  tmws token-report\n  tmws token-report --data ~/src/tmws/compat/tokens --json"
)]
pub struct TokenReport {
    /// The folder of tasks, fixtures and transcripts; else compat/tokens of the checkout around the working folder
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Tasks a session in the table: definitions are spread over so many
    #[arg(short, long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub k: u16,
    /// Print Markdown
    #[arg(long)]
    pub markdown: bool,
}

/// `tmws accept`.
#[derive(Debug, Args)]
#[command(
    after_help = "PostgreSQL with pgvector and Redis are started privately, on free ports of loopback, from the programs that are\n\
        found; or give the addresses of servers on which the run makes databases and keys of its own and removes them.\n\
        The decision is that of the full profile alone. Exit code 0 for GO and GO WITH WARNINGS, 1 for NO-GO.\n\n\
        Examples:\n  tmws accept --profile quick\n  tmws accept --only M1,R* --report /tmp/report\n  \
        tmws accept --target ws://localhost:8000/mcp --only W*"
)]
pub struct Accept {
    /// The folder for index.html, junit.xml, metrics.json and summary.md
    #[arg(long, value_name = "DIR", default_value = "test-reports/integration")]
    pub report: PathBuf,
    /// quick: under 3 minutes, decides nothing; full: under 30 minutes
    #[arg(long, value_enum, default_value = "full")]
    pub profile: AcceptProfile,
    /// Only these scenarios: ids, or the beginning of ids and *
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub only: Vec<String>,
    /// What need not be there; what needs it counts as not passed
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',')]
    pub without: Vec<Waived>,
    /// The same seed draws the same questions
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// Warnings are a failure
    #[arg(long)]
    pub strict: bool,
    /// Times, rates and how times compare may be so many times worse: for a program that is not built for speed; with
    /// --profile quick
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..=10))]
    pub slack: Option<u32>,
    /// metrics.json of an earlier run, to show the difference
    #[arg(long, value_name = "FILE")]
    pub previous: Option<PathBuf>,
    /// A PostgreSQL server with pgvector, whose databases may be made
    #[arg(long, value_name = "URL")]
    pub postgres: Option<String>,
    /// The folder of initdb and postgres
    #[arg(long, value_name = "DIR")]
    pub postgres_bin: Option<PathBuf>,
    /// A Redis server
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// The folder of redis-server
    #[arg(long, value_name = "DIR")]
    pub redis_bin: Option<PathBuf>,
    /// Another MCP server: what applies to any is run against it
    #[arg(long, value_name = "URL")]
    pub target: Option<String>,
    /// Its token
    #[arg(long, value_name = "TOKEN", requires = "target")]
    pub token: Option<String>,
    /// Be the server that recorded clients are played against: `stdio`, or an address to listen on
    #[arg(long, hide = true, value_name = "WHERE")]
    pub fixture: Option<String>,
}

/// How much `tmws accept` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AcceptProfile {
    /// Under three minutes.
    Quick,
    /// Under thirty minutes.
    Full,
}

/// What need not be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Waived {
    /// PostgreSQL.
    Postgres,
    /// Redis.
    Redis,
}

/// `tmws doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Do not launch a server to probe it
    #[arg(long)]
    pub no_probe: bool,
}
