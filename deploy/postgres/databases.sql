-- A database per service; run once, when the data folder is made.
CREATE DATABASE registry;
CREATE DATABASE matching;
CREATE DATABASE notify;
CREATE DATABASE targets;
