/* SPDX-License-Identifier: GPL-2.0 */
/* Tracepoints: what a mapper has to do with. A hit has none. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM dmu

#if !defined(DMU_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define DMU_TRACE_H

#include <linux/tracepoint.h>

#define DMU_TRACE_KEY	40	/* bytes of a key that are shown */

/* number: an id or a sequence; code: an operation, a kind or a pool, by the event. */
DECLARE_EVENT_CLASS(dmu_range,
	TP_PROTO(const char *key, u64 number, u64 start, u64 length, u32 code),
	TP_ARGS(key, number, start, length, code),
	TP_STRUCT__entry(
		__array(char, key, DMU_TRACE_KEY)
		__field(u64, number)
		__field(u64, start)
		__field(u64, length)
		__field(u32, code)
	),
	TP_fast_assign(
		strscpy(__entry->key, key, DMU_TRACE_KEY);
		__entry->number = number;
		__entry->start = start;
		__entry->length = length;
		__entry->code = code;
	),
	TP_printk("%s %llu: %llu+%llu %u", __entry->key, __entry->number, __entry->start, __entry->length, __entry->code)
);

#define DMU_TRACE_EVENT(name)							\
	DEFINE_EVENT(dmu_range, name,						\
		TP_PROTO(const char *key, u64 number, u64 start, u64 length, u32 code), \
		TP_ARGS(key, number, start, length, code))

DMU_TRACE_EVENT(dmu_miss);	/* id, range, operation */
DMU_TRACE_EVENT(dmu_map);	/* id, range, kind */
DMU_TRACE_EVENT(dmu_lease);	/* physical sector, range written to, pool */
DMU_TRACE_EVENT(dmu_change);	/* sequence, range, kind */
DMU_TRACE_EVENT(dmu_flush);	/* id, sequence it waits for */
DMU_TRACE_EVENT(dmu_commit);	/* sequence */
DMU_TRACE_EVENT(dmu_forget);	/* extents forgotten so far, range */

#endif /* DMU_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
