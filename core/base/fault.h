#pragma once

// Named points at which a test can kill this process, as a crash would: with SIGKILL, nothing
// flushed.

#include <string_view>

namespace octavo {

// Arms one point: "name" dies at its first passage, "name:3" at its third. With "@FILE" behind it
// only one process dies: the one that creates FILE, which must not exist before. An empty spec
// disarms. Called by main only, from the environment variable OCTAVO_FAULT_POINT.
void ArmFaultPoint(std::string_view spec);

// Dies here if `name` is armed and its count is reached. Costs one relaxed load otherwise.
// Names: leased, mid-write, before-receipt (worker); leased-out, mid-publish, after-publish
// (coordinator).
void FaultPoint(std::string_view name);

}  // namespace octavo
