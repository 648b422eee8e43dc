//! What all network bindings of one server share, and how each gets its drivers.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{Health, Keys};
use crate::{
    access::{Access, Entrant, Principal, Refused},
    audit::{Audit, Event},
    hex::hex,
    limits::{ConnectionLimits, NetworkLimits},
    metrics::{Metrics, Transport},
    protocol::{BatchAnswers, Client, Connection, Now, Signer},
    revision::Era,
    schema::Gate,
    scope::{ProjectId, Scope},
    session::{Driver, Hub, Identity, Mailbox, Membership, Wake},
    store::SharedStore,
    tool::{ConnectionId, Origin, Service},
    wire::Method,
};

/// The rule that a project offends which a token does not open.
pub(super) const PROJECT_NOT_OPEN: &str = "project-not-open";
/// The rule that a request offends whose token lacks a right.
pub(super) const INSUFFICIENT_SCOPE: &str = "insufficient-scope";

/// The parts that every connection of a server shares.
pub struct Host {
    /// Serves the calls.
    pub service: Arc<dyn Service>,
    /// Validates.
    pub gate: Arc<Gate>,
    /// Lets clients in.
    pub access: Arc<Access>,
    /// Who hears of changes.
    pub hub: Arc<Hub>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the server depends on, for those who ask whether it is ready.
    pub health: Health,
    /// Where it is written down who came and who was turned away, where there is such a log.
    pub audit: Option<Arc<Audit>>,
    /// Limits of each connection.
    pub connection_limits: ConnectionLimits,
    /// Limits of the server.
    pub network_limits: NetworkLimits,
    /// The edge where time comes in.
    pub clock: fn() -> Now,
    /// Cancelled when the server is to end: no new work, answers of what runs, then the close.
    pub stopping: CancellationToken,
    /// Cancelled when the time for that is over.
    pub cut_off: CancellationToken,
    /// Calls that are not ready at once run here.
    pub runtime: Handle,
    /// Where the key comes from that signs session ids, cursors and request states.
    pub keys: Keys,
    /// Where it is noted for the other instances that a session of HTTP was deleted; asked by those who are shown an id
    /// that they do not know. `None`: there are no other instances.
    pub ended: Option<SharedStore>,
    /// The next [`ConnectionId`].
    pub next_connection: AtomicU64,
}

/// One connection's driver with what belongs to it.
pub struct Seat {
    /// Names it within the process.
    pub id: ConnectionId,
    /// Feeds the core and runs the calls.
    pub driver: Driver,
    /// Where calls leave what they have to say.
    pub mailbox: Arc<Mailbox>,
}

/// After which number the questions of a session that was opened elsewhere are numbered. Where it was opened, they began at
/// 1; where it was restored before, at another such number. What old clients read into 32 bits fits.
fn first_question() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness nothing here can be safe.
    getrandom::fill(&mut bytes).expect("the system has randomness");
    (u32::from_be_bytes(bytes) >> 2) | 1 << 30
}

impl Host {
    /// A host with defaults for all but who serves, who is let in, the keys and the clock: default limits, no audit log,
    /// nothing that health depends on. Its calls run on the runtime that this is called in.
    ///
    /// # Panics
    /// Outside a runtime.
    #[must_use]
    pub fn new(service: Arc<dyn Service>, access: Access, keys: Keys, clock: fn() -> Now) -> Self {
        Self {
            service,
            gate: Arc::new(Gate::new()),
            access: Arc::new(access),
            hub: Arc::new(Hub::default()),
            metrics: Arc::new(Metrics::default()),
            health: Health::default(),
            audit: None,
            connection_limits: ConnectionLimits::default(),
            network_limits: NetworkLimits::default(),
            clock,
            stopping: CancellationToken::new(),
            cut_off: CancellationToken::new(),
            runtime: Handle::current(),
            keys,
            ended: None,
            next_connection: AtomicU64::new(1),
        }
    }

    /// A name for a connection.
    pub fn next_id(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    /// What signs a client's session ids, cursors and request states: they are good for its principal in its project.
    pub async fn signer_for(&self, entrant: &Entrant) -> Signer {
        let audience = format!("{}\n{}", entrant.principal.name, entrant.project);
        self.keys.signer(&self.runtime).await.for_audience(&audience)
    }

    /// Who a client is outside of any session.
    pub fn scope_of(&self, entrant: &Entrant) -> Scope {
        let (project, principal) = (entrant.project.clone(), &entrant.principal.name);
        Identity::known(project, principal, &entrant.agent, "", entrant.rights).scope(Era::Modern)
    }

    /// A driver for a client that was let in. `session` is the implicit session of its legacy calls: unguessable; `client`
    /// is given where a legacy session was opened elsewhere.
    pub fn seat(
        &self,
        entrant: &Entrant,
        session: &str,
        signer: Signer,
        batch_answers: BatchAnswers,
        client: Option<Client>,
        wake: impl Wake + 'static,
    ) -> Seat {
        self.seat_with(Arc::clone(&self.service), entrant, session, signer, batch_answers, client, wake)
    }

    /// The same with a service of its own in front (HTTP compares headers there).
    #[expect(clippy::too_many_arguments, reason = "everything that differs between bindings")]
    pub fn seat_with(
        &self,
        service: Arc<dyn Service>,
        entrant: &Entrant,
        session: &str,
        signer: Signer,
        batch_answers: BatchAnswers,
        client: Option<Client>,
        wake: impl Wake + 'static,
    ) -> Seat {
        let id = self.next_id();
        let connection = Connection::new(
            service.profile(),
            Arc::clone(&self.gate),
            self.connection_limits,
            signer,
            batch_answers,
        );
        let connection = match client {
            Some(client) => connection.with_session(client, first_question()),
            None => connection,
        };
        let identity = Identity::known(
            entrant.project.clone(),
            &entrant.principal.name,
            &entrant.agent,
            session,
            entrant.rights,
        );
        let mailbox = Mailbox::new(wake);
        let driver = Driver::new(
            id,
            connection,
            service,
            identity,
            self.runtime.clone(),
            Arc::clone(&mailbox),
            self.connection_limits.call_deadline,
        );
        let origin = Origin {
            peer: Some(entrant.peer),
            has_token: entrant.principal.has_token,
            is_stateless: false,
            transport: Transport::Http,
        };
        let driver = driver.on_network(origin, Arc::clone(&self.metrics));
        Seat { id, driver, mailbox }
    }

    /// Somebody is not let in: counted, and written down with the address, never with what was presented.
    pub fn turn_away(&self, peer: IpAddr, refused: Refused) {
        let rule = match refused {
            Refused::NoToken => "no-token",
            Refused::UnknownToken => "unknown-token",
            Refused::Project => PROJECT_NOT_OPEN,
        };
        self.metrics.refused(rule);
        if let Some(audit) = &self.audit {
            audit.refused(peer, rule);
        }
    }

    /// A principal may not do what it asks for, or not where: counted, and written down with its name.
    pub fn forbid(
        &self,
        peer: IpAddr,
        principal: &Principal,
        rule: &'static str,
        project: Option<&ProjectId>,
        method: Option<Method>,
    ) {
        self.metrics.refused(rule);
        if let Some(audit) = &self.audit {
            let (principal, project) = (Some(principal.name.clone()), project.cloned());
            audit.note(Event::Refused { peer, reason: rule, principal, project, method });
        }
    }

    /// Registers a connection for changes, in the scope of its legacy session; that it was let in is written down.
    pub fn join(&self, seat: &Seat) -> Membership {
        let scope = seat.driver.identity().scope(Era::Legacy);
        if let Some(audit) = &self.audit {
            let (connection, origin) = (seat.id, seat.driver.origin());
            audit.note(Event::LetIn { scope: scope.clone(), connection, origin });
        }
        self.hub.join(seat.id, scope, Arc::clone(&seat.mailbox))
    }

    /// A name for the implicit session of a connection: nobody can guess it.
    ///
    /// # Panics
    /// The system has no randomness: nothing here could be safe.
    #[must_use]
    pub fn random_name() -> String {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the system has randomness");
        hex(&bytes)
    }
}
