#include "kernels/table.h"

#include <string>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/divergence.h"
#include "kernels/hessian.h"
#include "kernels/matmul.h"
#include "kernels/matmul_f64.h"
#include "kernels/norm.h"
#include "kernels/probe.h"
#include "kernels/quantize.h"
#include "kernels/quantize_activation.h"
#include "kernels/rope.h"
#include "kernels/softmax.h"

namespace octavo {

std::vector<KernelRow> AllKernelRows() {
  std::vector<KernelRow> rows;
  const auto add = [&rows](std::span<const KernelRow> more) {
    rows.insert(rows.end(), more.begin(), more.end());
  };
  add(QuantizeKernelRows());
  add(QuantizeActivationKernelRows());
  add(ProbeKernelRows());
  add(MatmulKernelRows());
  add(AttentionKernelRows());
  add(NormKernelRows());
  add(RopeKernelRows());
  add(ActivationKernelRows());
  add(SoftmaxKernelRows());
  add(DivergenceKernelRows());
  add(HessianKernelRows());
  add(MatmulF64KernelRows());
  return rows;
}

std::string KernelTable(Isa chosen) {
  const auto pad = [](std::string_view text, size_t width) {
    std::string cell(text);
    cell.resize(cell.size() < width ? width : cell.size() + 1, ' ');
    return cell;
  };
  std::string text = pad("op", 22) + pad("types", 30) + pad("isa", 11) + "runs here\n";
  for (const KernelRow& row : AllKernelRows()) {
    text += pad(row.op, 22) + pad(row.dtype, 30) + pad(Name(row.isa), 11);
    text += IsSupported(row.isa) ? "yes" : "no";
    text += row.isa == chosen ? " *\n" : "\n";
  }
  return text;
}

}  // namespace octavo
