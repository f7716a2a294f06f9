use std::time::Duration;

use sea_orm::{Condition, entity::prelude::*};
use yai_agentkit_core::{
    ConversationId, MessageId, Turn, TurnId, TurnStatus,
    turn::{OwnerId, TurnFilter},
};

use crate::{
    StoredEntity,
    encryption::{EncryptionError, KeyRing},
    sql::Query,
};

/// The column `lease_renewed_at` is not here: only the database's clock writes it.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "agent_turns")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) conversation_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    pub(crate) user_message_id: Uuid,
    pub(crate) assistant_message_id: Option<Uuid>,
    pub(crate) input: Option<Json>,
    pub(crate) status: String,
    pub(crate) error: Option<String>,
    pub(crate) interrupt: Option<Json>,
    pub(crate) attempt: i32,
    pub(crate) epoch: i64,
    pub(crate) lease_owner: Option<Uuid>,
    pub(crate) lease_ms: i64,
    pub(crate) started_at: Option<DateTimeUtc>,
    pub(crate) created_at: DateTimeUtc,
    pub(crate) updated_at: DateTimeUtc,
    pub(crate) position: i64,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl StoredEntity for Turn {
    type Table = Entity;

    const POSITION: Option<Column> = Some(Column::Position);

    fn seal(&mut self, ring: &KeyRing) {
        ring.seal_turn(self);
    }

    fn open(&mut self, ring: &KeyRing) -> Result<(), EncryptionError> {
        ring.open_turn(self)
    }

    fn condition(filter: &TurnFilter) -> Condition {
        let of_conversation = filter.conversation_id;
        let with_status = filter.status;
        // As the two partial indexes have it.
        let waiting = [TurnStatus::Queued, TurnStatus::Waiting];
        let unfinished = Condition::any()
            .add(Column::Status.eq(TurnStatus::Running.as_str()))
            .add(Column::Status.is_in(waiting.map(TurnStatus::as_str)));
        Condition::all()
            .add_option(of_conversation.map(|id| Column::ConversationId.eq(id.0)))
            .add_option(with_status.map(|status| Column::Status.eq(status.as_str())))
            .add_option(filter.unfinished.then_some(unfinished))
    }
}

impl Model {
    /// Binds what may change of a turn: each column, with what is written to it.
    pub(crate) fn bind(self, query: &mut Query) -> Vec<(&'static str, String)> {
        let json = |query: &mut Query, json: Option<Json>| {
            let text = query.bind(json.map(|json| json.to_string()));
            let cast = if query.is_for_postgres() {
                "::json"
            } else {
                ""
            };
            format!("{text}{cast}")
        };
        vec![
            (
                "assistant_message_id",
                query.bind(self.assistant_message_id).to_string(),
            ),
            ("input", json(query, self.input)),
            ("status", query.bind(self.status).to_string()),
            ("error", query.bind(self.error).to_string()),
            ("interrupt", json(query, self.interrupt)),
            ("attempt", query.bind(self.attempt).to_string()),
            ("epoch", query.bind(self.epoch).to_string()),
            ("lease_owner", query.bind(self.lease_owner).to_string()),
            ("lease_ms", query.bind(self.lease_ms).to_string()),
            ("started_at", query.bind(self.started_at).to_string()),
            ("updated_at", query.bind(self.updated_at).to_string()),
        ]
    }
}

/// As an `UPDATE` sets them.
pub(crate) fn assigned(columns: &[(&'static str, String)]) -> String {
    let columns = columns
        .iter()
        .map(|(column, value)| format!("{column} = {value}"));
    columns.collect::<Vec<_>>().join(", ")
}

impl TryFrom<Model> for Turn {
    type Error = String;

    fn try_from(model: Model) -> Result<Self, String> {
        let refused = |column: &str| format!("turn {} has an unknown {column}", model.id);
        let status = TurnStatus::ALL
            .into_iter()
            .find(|status| status.as_str() == model.status);
        let interrupt = model.interrupt.map(serde_json::from_value).transpose();
        let mut turn = Self::with_id(
            TurnId(model.id),
            ConversationId(model.conversation_id),
            MessageId(model.user_message_id),
            model.created_at,
        );
        turn.assistant_message_id = model.assistant_message_id.map(MessageId);
        turn.status = status.ok_or_else(|| refused("status"))?;
        turn.input = model.input;
        turn.error = model.error;
        turn.interrupt = interrupt.map_err(|_| refused("interrupt"))?;
        turn.attempt = model.attempt.try_into().map_err(|_| refused("attempt"))?;
        turn.epoch = model.epoch.try_into().map_err(|_| refused("epoch"))?;
        turn.lease_owner = model.lease_owner.map(OwnerId);
        let lease = model.lease_ms.try_into().map_err(|_| refused("lease"))?;
        turn.lease = Duration::from_millis(lease);
        turn.started_at = model.started_at;
        turn.updated_at = model.updated_at;
        Ok(turn)
    }
}

impl From<Turn> for Model {
    fn from(turn: Turn) -> Self {
        Self {
            id: turn.id.0,
            conversation_id: turn.conversation_id.0,
            user_message_id: turn.user_message_id.0,
            assistant_message_id: turn.assistant_message_id.map(|id| id.0),
            input: turn.input,
            status: turn.status.as_str().to_owned(),
            error: turn.error,
            interrupt: turn.interrupt.map(|asked| serde_json::json!(asked)),
            attempt: i32::try_from(turn.attempt).unwrap_or(i32::MAX),
            epoch: i64::try_from(turn.epoch).unwrap_or(i64::MAX),
            lease_owner: turn.lease_owner.map(|id| id.0),
            lease_ms: i64::try_from(turn.lease.as_millis()).unwrap_or(i64::MAX),
            started_at: turn.started_at,
            created_at: turn.created_at,
            updated_at: turn.updated_at,
            position: 0,
        }
    }
}
