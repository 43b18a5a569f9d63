#pragma once

// Three readers of a checkpoint folder, and what becomes of a folder in each.

#include <array>
#include <cstdint>
#include <string_view>

namespace octavo {

enum class Reader : uint8_t {
  kOctavo,        // this version
  kVllm,          // 0.32, one GPU or CPU, as `vllm serve DIR` without other flags
  kTransformers,  // 5.17 with compressed-tensors 0.19, on a CPU, AutoModelForCausalLM
};
inline constexpr std::array kReaders = {Reader::kOctavo, Reader::kVllm, Reader::kTransformers};

// From good to bad: of several findings the worst counts.
enum class Verdict : uint8_t {
  kLoads,       // and computes what the folder says
  kUnknown,     // not judged
  kLoadsWrong,  // loads without an error and computes something else
  kRefused,     // an error, when it is loaded or at the first token
};

// How a verdict is known.
enum class Basis : uint8_t {
  kSeen,    // in the reader itself: tests/oracle/check_doctor.py, doctor_vllm.py
  kSource,  // in the reader's source or documentation
};

std::string_view Name(Reader reader);    // "octavo", "vllm", "transformers"
std::string_view Name(Verdict verdict);  // "loads", "unknown", "loads-wrong", "refused"
std::string_view Name(Basis basis);      // "seen", "source"

}  // namespace octavo
