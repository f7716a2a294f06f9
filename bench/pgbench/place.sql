-- The script is one step. A thread has 100 steps; every ten begin with its latest checkpoint.
\set count :count + 1
\set place :count + :client_id % 10
\set thread abs(hash(:client_id * 1000003 + :place / 100))
\set step :place % 100 + 1
\set length (:place % 10 + 1) * 400
