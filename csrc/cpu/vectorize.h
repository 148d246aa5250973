// SPDX-License-Identifier: Apache-2.0
// Compiles a function for several x86 generations; the loader picks one. The baseline elsewhere.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define SSF_VECTORIZE __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define SSF_VECTORIZE
#endif
