/* A kernel that depends on the one before it and does next to nothing: what a launch costs. */
kernel void add_one(global uint *counter) { counter[0] += 1; }
