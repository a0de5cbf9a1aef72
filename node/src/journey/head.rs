//! HEAD of what is not stored here: answered by what a peer, or upstream, says of it. No content is moved for it.

use super::ask::Question;
use super::freshness::Demand;
use super::site::FIRST_BYTE;
use super::{Asked, Journey, Reply};
use crate::classify::{Class, Classified, KeyHash};
use crate::cluster::source::Told;
use crate::fault::Fault;
use crate::ledger::Outcome;

impl Journey {
    pub(super) async fn head(&self, asked: &Asked, classified: &Classified, demand: Demand) -> Result<Reply, Fault> {
        // As for the content: what has to be signed comes from no peer, a package does not change under its name.
        let may_be_told = self.keyring(&asked.key).is_none();
        let is_current = classified.class != Class::MutableMetadata && !demand.revalidate;
        if may_be_told
            && is_current
            && let Some(reply) = self.head_from_site(asked, classified, Outcome::PeerHit).await
        {
            return Ok(reply);
        }
        let passed = self.pass_own(asked, classified).await;
        if passed.is_ok() || !may_be_told || is_current {
            return passed;
        }
        // Upstream cannot say whether it is still so: what was so has to do.
        self.head_from_site(asked, classified, Outcome::Stale).await.map_or(passed, Ok)
    }

    async fn head_from_site(&self, asked: &Asked, classified: &Classified, outcome: Outcome) -> Option<Reply> {
        let question = Question::about(asked, classified);
        for name in question.names() {
            for source in self.0.site.plan(&name).sources {
                let patience = source.hedge_after.max(FIRST_BYTE);
                let told = self.0.site.head(source.peer, &name, patience).await;
                if let Some(told) = told.filter(|told| self.will_do(&question, &name, told)) {
                    return Some(self.told_reply(asked, &self.0.site.name_of(source.peer), &told, outcome));
                }
            }
        }
        None
    }

    /// May what a peer has under a name be taken for what is asked for? What it has by its URL is the same only if the peer has checked
    /// it against the same digest; and it may not have heard yet that it is to be forgotten.
    pub(super) fn will_do(
        &self,
        question: &Question,
        name: &KeyHash,
        Told { described, confirmed_age, .. }: &Told,
    ) -> bool {
        let is_same = *name == question.key || described.digest == question.classified.digest;
        is_same && !self.is_forgotten(&question.url, *name, &described.url, *confirmed_age)
    }
}
