-- What must hold once every saga has ended. Each statement counts what is wrong: 0 is right.
-- Only who shows or tests the sagas may look into all three schemas at once; the services never do.

-- sagas that are neither completed nor compensated
SELECT COUNT(*) FROM saga_orders.saga_instances WHERE status NOT IN ('completed', 'compensated');

-- articles of which fewer than none are left, or accounts that are overdrawn
SELECT (SELECT COUNT(*) FROM saga_inventory.stock WHERE free < 0)
     + (SELECT COUNT(*) FROM saga_payments.accounts WHERE balance_cents < 0);

-- completed sagas without their confirmed order, their reservation and their payment
SELECT COUNT(*) FROM saga_orders.saga_instances i
LEFT JOIN saga_orders.orders o ON o.id = i.id AND o.status = 'confirmed'
LEFT JOIN saga_inventory.reservations r ON r.order_id = i.id AND r.sku = o.sku AND r.quantity = o.quantity
LEFT JOIN saga_payments.payments p ON p.order_id = i.id AND p.cents = o.total_cents
WHERE i.status = 'completed' AND (o.id IS NULL OR r.order_id IS NULL OR p.order_id IS NULL);

-- compensated sagas that have left something
SELECT COUNT(*) FROM saga_orders.saga_instances i
LEFT JOIN saga_orders.orders o ON o.id = i.id AND o.status <> 'cancelled'
LEFT JOIN saga_inventory.reservations r ON r.order_id = i.id
LEFT JOIN saga_payments.payments p ON p.order_id = i.id
WHERE i.status = 'compensated' AND (o.id IS NOT NULL OR r.order_id IS NOT NULL OR p.order_id IS NOT NULL);

-- orders, reservations and payments without a saga
SELECT (SELECT COUNT(*) FROM saga_orders.orders WHERE id NOT IN (SELECT id FROM saga_orders.saga_instances))
     + (SELECT COUNT(*) FROM saga_inventory.reservations WHERE order_id NOT IN (SELECT id FROM saga_orders.saga_instances))
     + (SELECT COUNT(*) FROM saga_payments.payments WHERE order_id NOT IN (SELECT id FROM saga_orders.saga_instances));
