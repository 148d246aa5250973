// SPDX-License-Identifier: Apache-2.0
// Compiles a function for several x86-64 levels, from which the loader selects one at run time; on other systems for
// the baseline only. SSF_X86_LEVEL (1, 3 or 4) compiles a single version, so that each can be tested on a newer
// processor.
#pragma once

#if !(defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__))
#define SSF_VECTORIZE
#elif !defined(SSF_X86_LEVEL)
#define SSF_VECTORIZE __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#elif SSF_X86_LEVEL == 4
#define SSF_VECTORIZE __attribute__((target("arch=x86-64-v4")))
#elif SSF_X86_LEVEL == 3
#define SSF_VECTORIZE __attribute__((target("arch=x86-64-v3")))
#else
#define SSF_VECTORIZE
#endif
