// What tests/oracle/check_gptq.py drives: one matrix through the solvers.
//
//   gptq_tool      standard input, little endian:
//                    u32 code (0 INT8, 1 FP8, 2 none: pruned values), u32 v1::Granularity (blocks
//                    128 x 128), u32 ColumnOrder, u32 Sparsity; i64 rows, columns, tokens;
//                    BF16 weight [rows][columns]; BF16 activations [tokens][columns]
//                  standard output: codes [rows][columns] (BF16 values where pruned), the scales in
//                    F32, the Hessian in F32 [columns][columns], then f64 error before, f64 error
//                    after, i64 rows left at nearest

#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "worker/quant/solve/solver.h"

namespace octavo {
namespace {

struct Head {
  uint32_t code, granularity, order, sparsity;
  int64_t rows, columns, tokens;
};

bool ReadBytes(void* to, size_t size) {
  return static_cast<bool>(
      std::cin.read(static_cast<char*>(to), static_cast<std::streamsize>(size)));
}

template <typename T>
void Write(const std::vector<T>& values) {
  std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

absl::StatusOr<SolveReport> Solve(const Head& head, const SolveSetup& setup, const WeightRows& rows,
                                  std::vector<std::byte>* codes, std::vector<std::byte>* scales) {
  if (head.code == 2) {
    codes->resize(rows.bytes.size());
    return PruneRows(setup, rows, *codes);
  }
  QuantizeRule rule;
  rule.format.set_type(head.code == 0 ? v1::NUMERIC_INT8 : v1::NUMERIC_FP8_E4M3);
  rule.format.set_granularity(static_cast<v1::Granularity>(head.granularity));
  rule.format.set_block_rows(128);
  rule.format.set_block_columns(128);
  rule.scale_dtype = DType::kF32;
  codes->resize(CodeBytes(rows.rows, rows.columns));
  scales->resize(ScaleBytes(rule, rows.rows, rows.columns));
  return SolveRows(setup, rows, rule, nullptr, static_cast<Sparsity>(head.sparsity), *codes,
                   *scales);
}

int Fail(const absl::Status& status) {
  std::cerr << "error: " << std::string(status.message()) << "\n";
  return 65;
}

int Run() {
  Head head;
  if (!ReadBytes(&head, sizeof(head))) return 64;
  std::vector<uint16_t> weight(static_cast<size_t>(head.rows * head.columns));
  std::vector<uint16_t> x(static_cast<size_t>(head.tokens * head.columns));
  if (!ReadBytes(weight.data(), weight.size() * 2) || !ReadBytes(x.data(), x.size() * 2)) return 64;
  Arena arena(0);
  ThreadPool pool(1);
  const Isa isa = BestIsa();
  const auto hessian =
      HessianOf(x.data(), head.tokens, head.columns, head.columns, isa, &arena, &pool);
  if (!hessian.ok()) return Fail(hessian.status());
  const auto factor =
      FactorHessian(*hessian, {.order = static_cast<ColumnOrder>(head.order)}, isa, &arena, &pool);
  if (!factor.ok()) return Fail(factor.status());
  WeightRows rows;
  rows.bytes = std::as_bytes(std::span(weight));
  rows.dtype = DType::kBF16;
  rows.rows = head.rows;
  rows.columns = head.columns;
  std::vector<std::byte> codes, scales;
  const auto report = Solve(head, {&*factor, isa, &arena, &pool}, rows, &codes, &scales);
  if (!report.ok()) return Fail(report.status());
  Write(codes);
  Write(scales);
  std::vector<float> square;
  for (int64_t i = 0; i < head.columns; ++i) {
    for (int64_t j = 0; j < head.columns; ++j) square.push_back(hessian->At(i, j));
  }
  Write(square);
  Write(std::vector<double>{report->error_before, report->error_after});
  Write(std::vector<int64_t>{report->nearest_rows});
  return 0;
}

}  // namespace
}  // namespace octavo

int main() { return octavo::Run(); }
