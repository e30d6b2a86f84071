-- The bridge's user in MariaDB, and nothing more than it needs: what `outbox-bridge init --print grants --dialect mariadb` prints
-- for the example configuration. Put the password of source.password_file in place, and one SELECT for each outbox table.
-- A table with a retention needs SELECT, DELETE.

CREATE USER IF NOT EXISTS 'bridge'@'%' IDENTIFIED BY '<password>';
GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO 'bridge'@'%';
GRANT SELECT ON `shop`.`outbox` TO 'bridge'@'%';
