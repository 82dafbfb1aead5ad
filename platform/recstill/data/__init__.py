"""Files in, arrays out: downloads, snapshots, transforms. Import the module you need; some are numpy only."""
