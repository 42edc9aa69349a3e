//! Sessions, subscriptions, retained messages and wills as a pure core.
