-- What must hold between the three services once every order is settled. Each statement counts what is wrong: 0 is right.
-- Only who shows or tests the flow may look into all three schemas at once; the services never do.

-- orders that are neither confirmed nor cancelled nor rejected
SELECT COUNT(*) FROM order_service.orders WHERE status NOT IN ('confirmed', 'cancelled', 'rejected');

-- articles of which some are still reserved, or fewer than none are left
SELECT COUNT(*) FROM inventory_service.stock WHERE reserved <> 0 OR on_hand < 0;

-- accounts that are overdrawn
SELECT COUNT(*) FROM payment_service.accounts WHERE balance_cents < 0;

-- orders whose reservation is not what became of the order
SELECT COUNT(*) FROM order_service.orders o LEFT JOIN inventory_service.reservations r ON r.order_id = o.id
WHERE NOT r.status <=> CASE o.status WHEN 'confirmed' THEN 'sold' WHEN 'cancelled' THEN 'released' END
  OR r.sku <> o.sku OR r.quantity <> o.quantity;

-- orders whose payment is not what became of the order
SELECT COUNT(*) FROM order_service.orders o LEFT JOIN payment_service.payments p ON p.order_id = o.id
WHERE NOT p.status <=> CASE o.status WHEN 'confirmed' THEN 'taken' WHEN 'cancelled' THEN 'failed' END
  OR p.cents <> o.total_cents;

-- reservations and payments without an order
SELECT (SELECT COUNT(*) FROM inventory_service.reservations WHERE order_id NOT IN (SELECT id FROM order_service.orders))
     + (SELECT COUNT(*) FROM payment_service.payments WHERE order_id NOT IN (SELECT id FROM order_service.orders));

-- orders that lack a step, or have one twice
SELECT COUNT(*) FROM (
  SELECT o.status, GROUP_CONCAT(h.event ORDER BY h.event) AS steps
  FROM order_service.orders o LEFT JOIN order_service.history h ON h.order_id = o.id GROUP BY o.id, o.status
) AS told
WHERE NOT steps <=> CASE status
  WHEN 'confirmed' THEN 'OrderPlaced,PaymentTaken,StockReserved'
  WHEN 'cancelled' THEN 'OrderPlaced,PaymentFailed,StockReleased,StockReserved'
  WHEN 'rejected' THEN 'OrderPlaced,StockRejected'
END;
