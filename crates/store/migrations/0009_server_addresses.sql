-- Where the control plane sees a server's requests come from: one more address at which the others may reach it.
ALTER TABLE servers ADD COLUMN seen_from TEXT;
