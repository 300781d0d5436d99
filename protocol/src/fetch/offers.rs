//! What one neighbour says it holds, and where its permission for it stands, by content.

use crate::bitmap::PieceSet;
use crate::digest::Blake3Root;
use crate::limits;
use crate::piece::PieceIndex;
use crate::time::Moment;

/// Where the permission of one neighbour for one content stands.
#[derive(Debug)]
pub(super) enum Grant {
    /// Asked, no answer yet.
    Asking,
    /// Given until then.
    Given(Moment),
    /// Refused; not asked again until then.
    Refused(Moment),
    /// Not yet: it has nothing of it, or has not checked it; not asked again until then.
    NotYet(Moment),
}

/// The contents of one neighbour.
#[derive(Debug, Default)]
pub(super) struct Offers {
    /// In the order of their roots: most neighbours hold few, and every word of every neighbour is looked up here.
    offers: Vec<(Blake3Root, Offer)>,
    /// Words of all sets.
    words: usize,
}

#[derive(Debug, Default)]
struct Offer {
    held: PieceSet,
    grant: Option<Grant>,
}

impl Offers {
    fn find(&self, root: Blake3Root) -> Result<usize, usize> {
        self.offers.binary_search_by(|(known, _)| known.cmp(&root))
    }

    fn offer(&self, root: Blake3Root) -> Option<&Offer> {
        self.find(root).ok().map(|at| &self.offers[at].1)
    }

    fn offer_mut(&mut self, root: Blake3Root) -> &mut Offer {
        let at = self.find(root).unwrap_or_else(|at| {
            if self.offers.is_empty() {
                self.offers.reserve_exact(1);
            }
            self.offers.insert(at, (root, Offer::default()));
            at
        });
        &mut self.offers[at].1
    }

    /// The pieces of a content that the neighbour says it holds.
    pub(super) fn held(&self, root: Blake3Root) -> Option<&PieceSet> {
        self.offer(root).map(|offer| &offer.held)
    }

    /// All contents of which it said something, with those pieces.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Blake3Root, &PieceSet)> {
        self.offers.iter().map(|(root, offer)| (*root, &offer.held))
    }

    /// Its permission, where it was asked.
    pub(super) fn grant(&self, root: Blake3Root) -> Option<&Grant> {
        self.offer(root)?.grant.as_ref()
    }

    /// Those pieces and its permission.
    pub(super) fn both(&self, root: Blake3Root) -> Option<(&PieceSet, Option<&Grant>)> {
        self.offer(root).map(|offer| (&offer.held, offer.grant.as_ref()))
    }

    /// Notes where its permission stands.
    pub(super) fn note(&mut self, root: Blake3Root, grant: Option<Grant>) {
        self.offer_mut(root).grant = grant;
    }

    /// Moments at which a permission or a refusal ends.
    pub(super) fn ends(&self) -> impl Iterator<Item = Moment> {
        self.offers.iter().filter_map(|(_, offer)| match offer.grant {
            Some(Grant::Refused(until) | Grant::NotYet(until) | Grant::Given(until)) => Some(until),
            Some(Grant::Asking) | None => None,
        })
    }

    /// Takes in what the neighbour says it holds, as far as there is room, and shows each piece that is new.
    pub(super) fn learn(&mut self, root: Blake3Root, pieces: &PieceSet, each: impl FnMut(PieceIndex)) {
        let known = self.offers.len() < limits::ARTIFACTS_TRACKED || self.find(root).is_ok();
        if !known || self.words + pieces.words() > limits::HOLDINGS_WORDS {
            return;
        }
        let held = &mut self.offer_mut(root).held;
        let before = held.words();
        held.absorb(pieces, each);
        let grown = held.words() - before;
        self.words += grown;
    }

    /// The neighbour does not hold a piece that it offered; whether it did offer it.
    pub(super) fn unlearn(&mut self, root: Blake3Root, piece: PieceIndex) -> bool {
        let Ok(at) = self.find(root) else { return false };
        let held = &mut self.offers[at].1.held;
        let (before, offered) = (held.words(), held.contains(piece));
        held.remove(piece);
        let shrunk = before - held.words();
        self.words -= shrunk;
        offered
    }
}
