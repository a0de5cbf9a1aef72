//! What installs imirror on a machine. Nothing is here yet but the place for it.
