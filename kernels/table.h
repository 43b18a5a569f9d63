#pragma once

// The printable table of kernels: which operation exists for which types and instruction set. Every
// op header declares `<Op>KernelRows()`; table.cc lists them all.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/isa.h"

namespace octavo {

struct KernelRow {
  std::string_view op;     // "cast_rows"
  std::string_view dtype;  // "bf16|f16|f32 -> fp8"
  Isa isa;
};

// Every kernel of this build, op by op, the reference first.
std::vector<KernelRow> AllKernelRows();

// The table as text: op, types, instruction set, and whether this machine runs it; `chosen` is
// marked with a star.
std::string KernelTable(Isa chosen);

}  // namespace octavo
