//! Deployments: what stops one, and what may not start one.
