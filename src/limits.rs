//! Every limit that keeps something from growing, with its unit and default.
//!
//! One value per concern is handed to the part that enforces it; only `config` reads settings.

use std::time::Duration;

/// Limits of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Largest frame accepted, in bytes (a larger one is refused and skipped).
    pub frame_in_bytes_max: usize,
    /// Largest frame sent, in bytes (a larger result becomes an error that says so).
    pub frame_out_bytes_max: usize,
    /// Requests being worked on at once; reading pauses beyond it.
    pub inflight_requests_max: usize,
    /// Frames waiting to be written; reading pauses beyond it.
    pub writer_queue_frames_max: usize,
    /// Subscriptions (resources subscribed to, or open listens) at once.
    pub subscriptions_max: usize,
    /// Items per page of a list.
    pub page_items: usize,
    /// Longest that a call may take.
    pub call_deadline: Duration,
    /// Longest that a task may take, and that one `tasks/result` waits for it.
    pub task_deadline: Duration,
    /// Longest that a request of ours waits for the client's answer.
    pub ask_deadline: Duration,
    /// How long a `requestState` may be used.
    pub request_state_ttl: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            frame_in_bytes_max: 4 << 20,
            frame_out_bytes_max: 1 << 20,
            inflight_requests_max: 64,
            writer_queue_frames_max: 64,
            subscriptions_max: 64,
            page_items: 100,
            call_deadline: Duration::from_secs(30),
            task_deadline: Duration::from_mins(30),
            ask_deadline: Duration::from_mins(5),
            request_state_ttl: Duration::from_mins(10),
        }
    }
}

/// Limits of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Longest content of one memory, in bytes.
    pub content_bytes_max: usize,
    /// Tags of one memory.
    pub tags_max: usize,
    /// Longest tag, in bytes.
    pub tag_bytes_max: usize,
    /// Scratch of one session, in bytes.
    pub scratch_bytes_max: usize,
    /// Result handles of one project at once; the oldest goes first.
    pub handles_per_project_max: usize,
    /// One stored result, in bytes.
    pub result_bytes_max: usize,
    /// A session unused for so long is gone.
    pub session_idle: Duration,
    /// A result handle lives for so long.
    pub handle_ttl: Duration,
    /// Longest wait for a lock held by another process.
    pub busy_timeout: Duration,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            content_bytes_max: 64 << 10,
            tags_max: 32,
            tag_bytes_max: 128,
            scratch_bytes_max: 256 << 10,
            handles_per_project_max: 1_000,
            result_bytes_max: 1 << 20,
            session_idle: Duration::from_hours(24),
            handle_ttl: Duration::from_hours(1),
            busy_timeout: Duration::from_secs(5),
        }
    }
}

/// Limits of tasks: calls that outlive their answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskLimits {
    /// Tasks of one principal that run at once.
    pub running_per_principal_max: usize,
    /// Tasks that run at once, in the whole process.
    pub running_max: usize,
    /// Tasks of one principal kept in one project; the oldest that has ended makes room.
    pub kept_max: usize,
    /// Longest that a task may run.
    pub deadline: Duration,
    /// How long a task is kept from its making; a client may wish for less.
    pub ttl: Duration,
    /// A call that takes longer than this becomes a task, where the client leaves that to the server.
    pub after: Duration,
    /// How often a client is advised to look after a task.
    pub poll_interval: Duration,
    /// A running task that the process has not looked after for so long counts as ended with its process.
    pub lease: Duration,
}

impl Default for TaskLimits {
    fn default() -> Self {
        Self {
            running_per_principal_max: 16,
            running_max: 64,
            kept_max: 256,
            deadline: Duration::from_mins(30),
            ttl: Duration::from_hours(1),
            after: Duration::from_secs(2),
            poll_interval: Duration::from_secs(1),
            lease: Duration::from_secs(15),
        }
    }
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownLimits {
    /// After the end of input, in-flight calls may still answer for so long.
    pub drain: Duration,
    /// After that, the process is gone within so long in all, children included.
    pub exit: Duration,
}

impl Default for ShutdownLimits {
    fn default() -> Self {
        Self { drain: Duration::from_millis(800), exit: Duration::from_secs(1) }
    }
}

/// Limits of a server that listens on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkLimits {
    /// Connections at once; more are turned away.
    pub connections_max: usize,
    /// Requests being worked on at once, over all connections.
    pub inflight_total_max: usize,
    /// Calls a second of one principal (of one connection where nobody has a token); 0 is no limit.
    pub calls_per_second: usize,
    /// Calls that may come at once before that counts.
    pub calls_burst: usize,
    /// The head of a request, and the first byte of a connection, must have arrived within so long.
    pub header_timeout: Duration,
    /// The body of a request must go on arriving: longest time without a byte.
    pub body_timeout: Duration,
    /// A peer that takes nothing of what waits for it is cut off after so long.
    pub write_stall: Duration,
    /// A WebSocket is pinged after so long without a byte.
    pub ping_interval: Duration,
    /// A WebSocket is closed after so long without a byte, pongs included.
    pub idle_timeout: Duration,
    /// A quiet event stream gets a comment every so often; a call that is silent for so long gets its event stream.
    pub keep_alive: Duration,
    /// Events of one HTTP session kept for streams that are resumed.
    pub replay_events_max: usize,
    /// The same in bytes.
    pub replay_bytes_max: usize,
    /// An HTTP session that nobody uses is put out of memory after so long.
    pub http_session_idle: Duration,
    /// An HTTP session id is good for so long.
    pub http_session_ttl: Duration,
    /// HTTP sessions in memory at once; one that nobody uses makes room.
    pub http_sessions_max: usize,
    /// After the signal to end, calls in flight may still answer for so long, and all connections are closed then.
    pub shutdown: Duration,
}

impl Default for NetworkLimits {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            inflight_total_max: 1_024,
            calls_per_second: 100,
            calls_burst: 200,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            write_stall: Duration::from_secs(30),
            ping_interval: Duration::from_secs(30),
            idle_timeout: Duration::from_mins(10),
            keep_alive: Duration::from_secs(15),
            replay_events_max: 256,
            replay_bytes_max: 1 << 20,
            http_session_idle: Duration::from_mins(30),
            http_session_ttl: Duration::from_hours(24),
            http_sessions_max: 16_384,
            shutdown: Duration::from_secs(4),
        }
    }
}
