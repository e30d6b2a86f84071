-- The outbox table: what `outbox-bridge init --print table` prints for the example configuration.

CREATE DATABASE IF NOT EXISTS `shop`;
CREATE TABLE `shop`.`outbox` (
  `seq`            BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  `id`             BINARY(16)   NOT NULL UNIQUE,
  `aggregate_type` VARCHAR(64)  NOT NULL,
  `aggregate_id`   VARCHAR(255) NOT NULL,
  `type`           VARCHAR(128) NOT NULL,
  `payload`        JSON         NOT NULL,
  `headers`        JSON         NULL,
  `created_at`     TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
